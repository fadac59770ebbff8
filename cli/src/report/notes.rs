//! What a reader must know before the numbers: the honest notes on a comparison.

use super::load::{Report, TrialRecord};
use super::text::{capital, list, metric, p_value, plural};
use tetlo_engine::statistics::LEVEL;
use tetlo_engine::summary::{Outcome, TestSummary};

/// A note; a warning where it limits what the numbers can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Does it limit the conclusions?
    pub warning: bool,
    /// A word or two.
    pub title: &'static str,
    /// Plain text.
    pub text: String,
}

/// All notes on a comparison, the same in every form of the report.
pub fn notes(report: &Report) -> Vec<Note> {
    let mut notes = vec![seeds(report)];
    notes.extend(synthetic(report));
    notes.extend(incomplete(report));
    for task in report.summary.tasks() {
        notes.extend(significance(report, task));
    }
    notes.push(splits(report));
    notes.extend(budget(report));
    notes
}

fn note(warning: bool, title: &'static str, text: String) -> Note {
    Note { warning, title, text }
}

fn seeds(report: &Report) -> Note {
    let counts = || report.summary.methods.iter().map(|m| m.n);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    let many = if least == most {
        format!("Every method has {} a task", plural(least, "finished seed"))
    } else {
        format!("Methods have between {least} and {most} finished seeds a task")
    };
    let rest = match least {
        0 => "; those without any have no numbers",
        1 => "; a single run says nothing about spread",
        2..5 => {
            "; with so few the standard deviation is rough and the bootstrap interval too narrow"
        }
        _ => "; ± is the standard deviation over seeds (n − 1)",
    };
    note(least < 5, "Seeds", format!("{many}{rest}."))
}

fn synthetic(report: &Report) -> Option<Note> {
    let mut names: Vec<String> = report
        .trials
        .iter()
        .filter_map(|t| t.dataset.as_ref())
        .filter(|d| d.synthetic)
        .map(|d| d.name.clone())
        .collect();
    names.sort();
    names.dedup();
    (!names.is_empty()).then(|| {
        let text = format!(
            "{} made by a program, not photographed or scanned. Numbers on synthetic data say \
             nothing about real images.",
            match names.as_slice() {
                [one] => format!("The data set {one} is"),
                _ => format!("The data sets {} are", list(&names)),
            }
        );
        note(true, "Synthetic data", text)
    })
}

fn incomplete(report: &Report) -> Vec<Note> {
    let label = |t: &TrialRecord| {
        let name = &t.trial.name;
        format!("{} seed {} on {}", name.method, name.seed, name.task)
    };
    let total = report.trials.len();
    let mut notes = vec![];
    let failed: Vec<String> = report
        .trials
        .iter()
        .filter_map(|t| match &t.trial.outcome {
            Outcome::Failed(failure) => Some(format!("{} ({})", label(t), failure.error)),
            Outcome::Finished(_) | Outcome::Missing => None,
        })
        .collect();
    if !failed.is_empty() {
        let text = format!(
            "{} of {total} trials failed and {} left out, which may flatter the method: {}.",
            failed.len(),
            if failed.len() == 1 { "is" } else { "are" },
            failed.join("; ")
        );
        notes.push(note(true, "Failed trials", text));
    }
    let missing: Vec<String> =
        report.trials.iter().filter(|t| t.trial.outcome == Outcome::Missing).map(label).collect();
    if !missing.is_empty() {
        let text = format!(
            "{} of {total} trials {} not finished: {}. The numbers are preliminary.",
            missing.len(),
            if missing.len() == 1 { "has" } else { "have" },
            missing.join("; ")
        );
        notes.push(note(true, "Incomplete", text));
    }
    notes
}

/// What the paired tests of a task allow to say.
fn significance(report: &Report, task: &str) -> Option<Note> {
    let family = |test: &'static str| {
        report.summary.tests.iter().filter(move |t| t.task == task && t.test == test)
    };
    let pairs = family("wilcoxon").count();
    let most = family("wilcoxon").map(|t| t.n).max()?;
    let on = if report.summary.tasks().len() > 1 { format!("On {task}: ") } else { String::new() };
    if most == 0 {
        let text = format!("{on}no two methods have a seed in common, so nothing can be tested.");
        return Some(note(true, "Significance", text));
    }
    let smallest = 0.5f64.powi(most as i32 - 1);
    let bound = (smallest * pairs as f64).min(1.0);
    let found = |test: &'static str| -> Vec<String> {
        family(test).filter(|t| t.p_holm.is_some_and(|p| p <= LEVEL)).map(verdict).collect()
    };
    let (ranks, t) = (found("wilcoxon"), found("paired-t"));
    let by_ranks = if bound > LEVEL {
        let after = match pairs {
            1 => String::new(),
            _ => format!(" ({bound} after Holm over {pairs} pairs)"),
        };
        format!(
            "with {} in common the smallest two-sided p of the signed-rank test is \
             {smallest}{after}: it cannot call any difference significant at {LEVEL}, whatever the \
             values",
            plural(most, "seed")
        )
    } else if ranks.is_empty() {
        format!("no difference is significant at {LEVEL} by the signed-rank test after Holm")
    } else {
        format!("significant by the signed-rank test after Holm: {}", list(&ranks))
    };
    let by_t = if t.is_empty() {
        format!("The paired t-test finds none significant at {LEVEL} after Holm.")
    } else {
        format!("The paired t-test, which assumes normal differences, finds: {}.", list(&t))
    };
    let by_ranks = if on.is_empty() { capital(&by_ranks) } else { by_ranks };
    let text = format!("{on}{by_ranks}. {by_t}");
    Some(note(bound > LEVEL || (ranks.is_empty() && t.is_empty()), "Significance", text))
}

fn verdict(test: &TestSummary) -> String {
    let above = test.mean_difference.is_some_and(|d| d > 0.0);
    let relation = if above { "above" } else { "below" };
    let p = p_value(test.p_holm);
    let p = if p.starts_with('<') { format!("p {p}") } else { format!("p = {p}") };
    format!("{} {relation} {} ({p})", test.a, test.b)
}

fn splits(report: &Report) -> Note {
    let mut metrics: Vec<String> = vec![];
    let mut only_test = true;
    for method in &report.summary.methods {
        let Some(name) = &method.metric else { continue };
        let split = report.summary.split(&method.task, name).unwrap_or("unknown");
        only_test &= split == "test";
        let text = format!("{} is computed on the {split} split", metric(name));
        if !metrics.contains(&text) {
            metrics.push(text);
        }
    }
    let mut text = String::from(
        "Architectures were chosen on the validation split, which is held out of the training data",
    );
    if !metrics.is_empty() {
        text += "; ";
        text += &list(&metrics);
    }
    text += if only_test {
        ", once, at the end. Nothing was selected on the test split."
    } else {
        ". A number that is not computed on the test split is not an estimate for new data."
    };
    note(!only_test, "Splits", text)
}

/// Did methods search for different numbers of epochs?
fn budget(report: &Report) -> Option<Note> {
    for task in report.summary.tasks() {
        let mut epochs: Vec<(String, usize)> = vec![];
        for record in report.trials_of(task) {
            if let Outcome::Finished(result) = &record.trial.outcome {
                let entry = (result.method.clone(), result.search.epochs);
                if !epochs.contains(&entry) {
                    epochs.push(entry);
                }
            }
        }
        if epochs.iter().any(|(_, n)| *n != epochs[0].1) {
            let each: Vec<String> = epochs.iter().map(|(m, n)| format!("{m} {n}")).collect();
            let text = format!(
                "Methods did not search for the same number of epochs on {task}: {}. Compare the \
                 seconds too.",
                list(&each)
            );
            return Some(note(true, "Budget", text));
        }
    }
    None
}
