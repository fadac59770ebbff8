//! Timing, counting, and what both give.

use crate::args::{Format, MeasureArgs};
use crate::commands::setup::place;
use crate::console;
use anyhow::Result;
use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};
use std::time::Instant;
use tetlo_core::multilevel::Batch;
use tetlo_core::network::ImageShape;
use tetlo_core::rng::{Key, Purpose, Stream};
use tetlo_engine::memory;
use tetlo_engine::trial::Place;
use tetlo_kernels::{MachinePeak, counters, machine_peak};

/// Classes of the random labels.
pub(super) const CLASSES: usize = 10;

/// Fields of a line of JSON, in order.
pub(super) type Row = Map<String, Value>;

/// Repetitions of one piece of work.
#[derive(Debug)]
pub(super) struct Timed {
    /// Milliseconds of each, sorted.
    times: Vec<f64>,
    forwards: u64,
    backwards: u64,
    multiply_adds: u64,
    peak_bytes: u64,
    /// Of the kernels' buffers.
    buffer_bytes: u64,
}

impl Timed {
    /// Times `steps` repetitions of `work` after one to warm up.
    pub(super) fn run(steps: usize, mut work: impl FnMut(usize) -> Result<()>) -> Result<Self> {
        Self::parts(steps, |i| {
            let began = Instant::now();
            work(i)?;
            Ok(began.elapsed().as_secs_f64())
        })
    }

    /// The same for work that times the part of itself that counts, in seconds. All that it makes
    /// the kernels do is counted.
    pub(super) fn parts(steps: usize, mut work: impl FnMut(usize) -> Result<f64>) -> Result<Self> {
        work(0)?;
        let before = counters();
        let mut times = Vec::with_capacity(steps);
        for i in 1..=steps {
            times.push(1e3 * work(i)?);
        }
        let after = counters();
        times.sort_by(f64::total_cmp);
        let each = |total: u64| total / steps as u64;
        Ok(Self {
            times,
            forwards: each(after.forwards - before.forwards),
            backwards: each(after.backwards - before.backwards),
            multiply_adds: each(after.multiply_adds - before.multiply_adds),
            peak_bytes: memory::peak_bytes(),
            buffer_bytes: after.arena_bytes,
        })
    }

    /// The same times for another amount of work.
    pub(super) fn with_multiply_adds(self, multiply_adds: u64) -> Self {
        Self { multiply_adds, ..self }
    }

    /// Passes of the kernels a step.
    pub(super) fn passes(&self) -> (u64, u64) {
        (self.forwards, self.backwards)
    }

    fn median(&self) -> f64 {
        let (t, middle) = (&self.times, self.times.len() / 2);
        if t.len() % 2 == 1 { t[middle] } else { f64::midpoint(t[middle - 1], t[middle]) }
    }

    /// Adds what every row has.
    pub(super) fn fill(&self, row: &mut Row, place: &Place, peak: MachinePeak) {
        let ms = self.median();
        let gflops = 2e-6 * self.multiply_adds as f64 / ms;
        let fields = json!({
            "device": place.device,
            "threads": place.threads,
            "simd": tetlo_kernels::simd_name(),
            "steps": self.times.len(),
            "ms_median": ms,
            "ms_min": self.times[0],
            "ms_max": self.times[self.times.len() - 1],
            "peak_rss_mib": self.peak_bytes as f64 / f64::from(1 << 20),
            "buffers_mib": self.buffer_bytes as f64 / f64::from(1 << 20),
            "gflops": gflops,
            "roofline_fraction": gflops / peak.gflops,
            "fma_peak_gflops": peak.gflops,
            "memory_gb_s": peak.memory_gb_s,
        });
        if let Value::Object(fields) = fields {
            row.extend(fields);
        }
    }
}

/// Rows that wait for the machine's peak, which is measured last: it takes memory of its own.
#[derive(Debug)]
pub(super) struct Rows {
    place: Place,
    rows: Vec<(Row, Option<Timed>)>,
}

impl Rows {
    /// Checks the device and sets the number of threads.
    pub(super) fn new(measure: &MeasureArgs) -> Result<Self> {
        let place = place(&measure.device, measure.threads)?;
        Ok(Self { place, rows: vec![] })
    }

    /// Adds a row: what was timed, and the times if it ran.
    pub(super) fn push(&mut self, what: Value, timed: Option<Timed>) {
        let Value::Object(what) = what else { return };
        self.rows.push((what, timed));
    }

    fn finish(self) -> Result<Vec<Row>> {
        let peak = machine_peak().map_err(candle_core::Error::from)?;
        let mut rows = Vec::with_capacity(self.rows.len());
        for (mut row, timed) in self.rows {
            if let Some(timed) = timed {
                timed.fill(&mut row, &self.place, peak);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Prints a single row: an object, or a line a field.
    pub(super) fn print_one(self, format: Format) -> Result<()> {
        for row in self.finish()? {
            match format {
                Format::Json => console::out_json(&row)?,
                Format::Text => {
                    let width = row.keys().map(String::len).max().unwrap_or(0);
                    for (name, value) in &row {
                        console::out(&format!("{name:<width$}  {}", text(value)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Prints a list of rows: an array, or a table with these columns.
    pub(super) fn print_list(self, format: Format, columns: &[&str]) -> Result<()> {
        let rows = self.finish()?;
        if format == Format::Json {
            return console::out_json(&rows);
        }
        let mut table: Vec<Vec<String>> = vec![columns.iter().map(|c| (*c).to_owned()).collect()];
        for row in &rows {
            table.push(columns.iter().map(|c| row.get(*c).map_or(String::new(), text)).collect());
        }
        let widths: Vec<usize> = (0..columns.len())
            .map(|c| table.iter().map(|line| line[c].chars().count()).max().unwrap_or(0))
            .collect();
        for line in &table {
            let mut out = String::new();
            for (c, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // Names to the left, numbers to the right.
                let cell =
                    if c == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
                out.push_str(&cell);
                out.push_str("  ");
            }
            console::out(out.trim_end());
        }
        Ok(())
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or_default()),
        Value::String(s) => s.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// The shape of the images.
pub(super) fn image_shape(side: usize) -> ImageShape {
    ImageShape { channels: 3, height: side, width: side }
}

/// Normal pixels of the same key in every run.
pub(super) fn draws() -> Stream {
    Key::new(0, Purpose::Problem).stream()
}

/// A batch of normal pixels and uniform labels.
pub(super) fn random_batch(draws: &mut Stream, measure: &MeasureArgs) -> Result<Batch> {
    let shape = (measure.batch, 3, measure.image, measure.image);
    let len = measure.batch * 3 * measure.image * measure.image;
    let pixels: Vec<f32> = (0..len).map(|_| draws.normal() as f32).collect();
    let labels = (0..measure.batch).map(|_| draws.below(CLASSES) as u32).collect();
    Ok(Batch { images: Tensor::from_vec(pixels, shape, &Device::Cpu)?, labels })
}
