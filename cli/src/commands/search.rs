//! `search`: one search.

use crate::args::SearchArgs;
use crate::commands::setup::pick;
use crate::console::{self, Progress};
use crate::exit::Exit;
use anyhow::Result;
use serde_json::json;
use std::path::Path;
use tetlo_engine::provenance::provenance;
use tetlo_engine::store::{DirectoryLock, Recorder, TrialDirectory, json_bytes, write};
use tetlo_engine::trial::search_only;

/// Searches and writes a run directory with the genotype.
pub(crate) fn search(arguments: &SearchArgs, bars: bool) -> Result<Exit> {
    let (loaded, trial, place) = pick(&arguments.pick)?;
    let data = loaded.data(&trial)?;
    loaded.check(&trial, &data)?;
    let out = arguments.out.clone().unwrap_or_else(|| {
        Path::new("runs").join(format!("{}-search", loaded.config.name)).join(&trial.id)
    });
    let _lock = DirectoryLock::take(&out)?;
    let directory = TrialDirectory::at(&out);
    directory.begin(
        &trial.to_toml(&place.device)?,
        &provenance(&trial, &data, &place.device, place.threads),
    )?;
    let mut progress = Progress::new(format!("{}:", trial.method.name), bars);
    let mut recorder = Recorder::start(&directory, &mut progress)?;
    let found = search_only(&trial, &data, &mut recorder);
    recorder.finish()?;
    drop(progress);
    let (genotype, history, record) = match found {
        Ok(found) => found,
        Err(error) => {
            directory.fail(&trial.id, &error, None)?;
            return Err(error.into());
        }
    };
    directory.write_genotype(&genotype)?;
    directory.write_alphas(&history)?;
    let result = json!({
        "schema": "tetlo.search/1",
        "trial_id": trial.id,
        "method": trial.method.name,
        "task": trial.task.name,
        "seed": trial.seed,
        "genotype": genotype.to_json(),
        "search": record,
        "skip_count": genotype.skip_count(),
    });
    write(&out.join("search.json"), &json_bytes(&result))?;
    console::out(&genotype.to_python());
    console::note(&format!("written to {}", out.display()));
    Ok(Exit::Ok)
}
