//! Kinds that choose or judge discrete cells, and those that change the space.

use crate::Suite;
use crate::numbers::{draws, normal, values};
use crate::report::{Check, Report, ensure, refused};
use crate::space::{Softmax, belongs, registered, spaces};
use std::sync::Arc;
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::{BlackBoxSearch, Evaluated, Selection, StopRule, SupernetTransform, Trace};
use tetlo_core::network::ImageShape;
use tetlo_core::space::{ArchValues, SpaceSpec};

/// Random raw α of a space; `change` may spoil a matrix.
fn alphas(space: &SpaceSpec, seed: u64, change: impl Fn(&mut Vec<Vec<f64>>)) -> Check<ArchValues> {
    let mut all = ArchValues::default();
    for (entry, seed) in space.architecture().entries().iter().zip(seed..) {
        let flat = values(&normal(&entry.shape, seed)?)?;
        let mut rows: Vec<Vec<f64>> = flat.chunks(entry.shape[1]).map(<[f64]>::to_vec).collect();
        change(&mut rows);
        all = all.with(&entry.name, rows);
    }
    Ok(all)
}

/// Runs `check` on each space that the plugin fits; it must fit one.
fn on_spaces(
    report: &mut Report<'_>,
    fits: impl Fn(&SpaceSpec) -> tetlo_core::Result<()>,
    check: impl Fn(&SpaceSpec) -> Check,
) {
    let mut refusals = vec![];
    for space in spaces() {
        report.check(format_args!("on the space `{}`", space.name), || match fits(&space) {
            Ok(()) => check(&space),
            Err(e) if e.is_usage() => {
                refusals.push(e.to_string());
                Ok(())
            }
            Err(e) => Err(e.into()),
        });
    }
    report.check("spaces", || {
        ensure!(refusals.len() < spaces().len(), "it fits no space: {}", refusals.join("; "));
        Ok(())
    });
}

impl Suite for dyn Selection {
    fn suite(selection: &Self, report: &mut Report<'_>) {
        let fits = |space: &SpaceSpec| {
            let layout = space.architecture();
            let flat = layout.entries().iter().fold(ArchValues::default(), |all, e| {
                all.with(&e.name, vec![vec![0.0; e.shape[1]]; e.shape[0]])
            });
            selection.select(space, &flat).map(drop)
        };
        on_spaces(report, fits, |space| {
            for seed in 0..20 {
                let alphas = alphas(space, 10 * seed, |_| {})?;
                let genotype = selection.select(space, &alphas)?;
                belongs(space, &genotype)?;
                let again = selection.select(space, &alphas)?;
                ensure!(genotype == again, "equal α give {genotype:?} and {again:?}");
            }
            for (what, spoilt) in [
                ("α with a row too few", alphas(space, 1, |rows| drop(rows.pop()))?),
                ("α with a column too many", alphas(space, 1, |rows| rows[0].push(0.0))?),
                ("α with NaN", alphas(space, 1, |rows| rows[0][0] = f64::NAN)?),
            ] {
                refused(what, || selection.select(space, &spoilt))?;
            }
            refused("no α at all", || selection.select(space, &ArchValues::default())).map(drop)
        });
    }
}

impl Suite for dyn BlackBoxSearch {
    fn suite(search: &Self, report: &mut Report<'_>) {
        report.check("evaluations", || {
            ensure!(search.evaluations() != Some(0), "an empty budget");
            Ok(())
        });
        let fits = |space: &SpaceSpec| search.propose(space, &[], &mut draws(0)).map(drop);
        on_spaces(report, fits, |space| {
            let mut history = vec![];
            for step in 0..30 {
                let propose = || search.propose(space, &history, &mut draws(step));
                let genotype = propose()?;
                belongs(space, &genotype)?;
                ensure!(propose()? == genotype, "equal draws and history give two proposals");
                let score = draws(100 + step).uniform();
                history.push(Evaluated { genotype, score });
            }
            let first = &history[0].genotype;
            let varied = history.iter().any(|e| e.genotype != *first);
            ensure!(varied, "30 proposals are one architecture");
            Ok(())
        });
    }
}

impl Suite for dyn StopRule {
    fn suite(rule: &Self, report: &mut Report<'_>) {
        for space in spaces() {
            for lambda in [false, true] {
                let what = if lambda { "with" } else { "without" };
                let what = format!("on the space `{}`, {what} λ_max", space.name);
                report.check(what, || stops(rule, &space, lambda));
            }
        }
        report.check("an empty trace", || {
            let empty = Trace { epochs: 10, ..Trace::default() };
            if let Ok(Some(stop)) = rule.stop(&empty) {
                ensure!(false, "{stop:?} before any epoch");
            }
            Ok(())
        });
    }
}

fn stops(rule: &dyn StopRule, space: &SpaceSpec, lambda: bool) -> Check {
    const EPOCHS: usize = 30;
    let genotypes: Vec<Genotype> =
        (0..EPOCHS).map(|e| space.sample(&mut draws(e as u64))).collect::<Result<_, _>>()?;
    for epochs in 1..=EPOCHS {
        let trace = Trace {
            genotypes: genotypes[..epochs].to_vec(),
            lambda_max: (0..epochs).filter(|_| lambda).map(|e| (e, 0.1 * e as f64)).collect(),
            epochs: EPOCHS,
        };
        let stop = rule.stop(&trace)?;
        ensure!(rule.stop(&trace)? == stop, "equal traces give two answers");
        if let Some(stop) = stop {
            let happened = stop.return_epoch <= stop.stop_epoch && stop.stop_epoch < epochs;
            ensure!(happened, "{stop:?} after {epochs} epochs");
        }
    }
    Ok(())
}

impl Suite for dyn SupernetTransform {
    fn suite(transform: &Self, report: &mut Report<'_>) {
        let fits = |space: &SpaceSpec| transform.transform(space.clone()).map(drop);
        on_spaces(report, fits, |space| {
            let changed = transform.transform(space.clone())?.validated()?;
            ensure!(transform.transform(space.clone())? == changed, "two calls differ");
            let names = |s: &SpaceSpec| s.cells.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
            ensure!(names(space) == names(&changed), "the cells become {:?}", names(&changed));
            for seed in 0..20 {
                belongs(&changed, &changed.sample(&mut draws(seed))?)?;
            }
            if registered() {
                let image = ImageShape { channels: 3, height: 16, width: 16 };
                changed.supernet(image, 4, Arc::new(Softmax))?;
            }
            Ok(())
        });
    }
}
