//! `doctor`: what this machine offers.

use crate::args::Format;
use crate::commands::setup::threads_from_environment;
use crate::console;
use crate::exit::Exit;
use anyhow::Result;
use serde_json::json;
use tetlo_core::kinds::Dataset;
use tetlo_core::registry;
use tetlo_engine::provenance::cpu_model;
use tetlo_loader::path;

/// Prints processor, kernels, threads, devices and data sets.
pub(crate) fn doctor(format: Format) -> Result<Exit> {
    let threads = threads_from_environment()?;
    let cpu = cpu_model().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let simd = tetlo_kernels::simd_name();
    let paths = tetlo_kernels::simd_paths();
    let no_cuda = "this build has no CUDA support";
    // Sets that need no file are ready on every machine.
    let (mut ready, mut from_path) = (vec![], vec![]);
    for entry in registry::entries::<dyn Dataset>() {
        let built_in = entry.build(&serde_json::Value::Null).is_ok_and(|d| d.load().is_ok());
        if built_in { ready.push(entry.name) } else { from_path.push(entry.name) }
    }
    let data = std::env::var("TETLO_DATA").ok();
    let plugins: Vec<String> =
        path::of_environment().iter().map(|p| p.display().to_string()).collect();
    match format {
        Format::Json => console::out_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": cpu,
            "simd": simd,
            "simd_paths": paths,
            "threads": threads,
            "cuda": null,
            "cuda_why": no_cuda,
            "data_ready": ready,
            "data_from_path": from_path,
            "tetlo_data": data,
            "plugin_path": plugins,
        }))?,
        Format::Text => {
            console::out(&format!("tetlo {}", env!("CARGO_PKG_VERSION")));
            console::out(&format!("processor   {cpu}"));
            console::out(&format!(
                "kernels     {simd} (this machine can run {})",
                paths.join(", ")
            ));
            console::out(&format!("threads     {threads}"));
            console::out(&format!("CUDA        none: {no_cuda}"));
            console::out(&format!("data        {}", ready.join(", ")));
            console::out(&format!("            from a path: {}", from_path.join(", ")));
            let data = data.as_deref().unwrap_or("not set");
            console::out(&format!("TETLO_DATA  {data}"));
            let plugins = if plugins.is_empty() { "none".into() } else { plugins.join(", ") };
            console::out(&format!("plugins     {} names {plugins}", path::VARIABLE));
        }
    }
    Ok(Exit::Ok)
}
