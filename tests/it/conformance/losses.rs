//! Transfer losses that are wrong in shapes, precision or what they say of themselves.

use super::{found, wrong};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use std::path::PathBuf;
use tetlo_core::kinds::{Invariances, Needs, Seen, TransferBatch, TransferLoss};
use tetlo_core::layout::{Init, Layout};
use tetlo_core::registry::{Code, Entry, Kind, Tier, catalog, loaded};
use tetlo_core::{Error, Result};
use tetlo_test_support::{Event, Outcome, check_with, entry, rows, run};

type Loss = dyn TransferLoss;

/// Squared difference of the squared norms: blind to the order of the images and to rotations.
/// `BUG` says what is wrong with it.
#[derive(Debug)]
struct Odd<const BUG: usize>;

const RIGHT: usize = 0;
const SCALE: usize = 1;
const SHIFT: usize = 2;
const ORDER: usize = 3;
const ROTATION: usize = 4;
const WIDTHS: usize = 5;
const ONE_IMAGE: usize = 6;
const INFINITY: usize = 7;
const UNASKED: usize = 8;
const LOGITS: usize = 9;
const SINGLE: usize = 10;
const WRONG_SINGLE: usize = 11;
const WORDLESS: usize = 12;
const RANKS: usize = 13;

impl<const BUG: usize> TransferLoss for Odd<BUG> {
    fn needs(&self) -> Needs {
        match BUG {
            ONE_IMAGE | WORDLESS => Needs::embeddings(1),
            LOGITS => Needs::batch(2).with_logits(),
            RANKS => Needs::embeddings(2).with_parameters(),
            _ => Needs::embeddings(2),
        }
    }

    fn parameters(&self, main: &Seen, _: &Seen) -> Result<Layout> {
        let width = main.embedding.as_ref().map_or(0, |z| z.dims()[1]);
        let mut layout = Layout::new();
        layout.push("scale", &[1, width], Init::Constant(1.0));
        Ok(layout)
    }

    fn invariances(&self) -> Invariances {
        Invariances {
            order: true,
            scale: BUG == SCALE || BUG == LOGITS,
            rotation: BUG != LOGITS && BUG != INFINITY && BUG != RANKS,
            shift: BUG == SHIFT,
        }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = if BUG == LOGITS { batch.logits()? } else { batch.embeddings()? };
        if BUG == LOGITS && main.dim(1)? != aux.dim(1)? {
            return Err(Error::Invalid("other classes".into()));
        }
        if BUG == WIDTHS {
            assert!((main.dim(1)? + aux.dim(1)?).is_multiple_of(2), "an odd sum of widths");
        }
        if BUG == WORDLESS && batch.len() == 1 {
            return Err(Error::Invalid(String::new()));
        }
        let feature = |z: &Tensor| -> Result<Tensor> {
            let z = if BUG == SINGLE || BUG == WRONG_SINGLE {
                z.to_dtype(DType::F32)?
            } else {
                z.clone()
            };
            Ok(match BUG {
                INFINITY => z.sqr()?.neg()?.exp()?.mean(1)?,
                ROTATION => z.narrow(1, 0, 1)?.sqr()?.mean(1)?,
                _ => z.sqr()?.mean(1)?,
            })
        };
        let scaled = match &batch.parameters {
            Some(parameters) => main.broadcast_mul(&parameters.unsqueeze(0)?)?,
            None => main.clone(),
        };
        let apart = (feature(&scaled)? - feature(aux)?)?;
        let apart = if BUG == WRONG_SINGLE { (&apart * apart.detach())? } else { apart.sqr()? };
        let places = Tensor::arange(0u32, batch.len() as u32, &Device::Cpu)?;
        let loss = match BUG {
            ORDER => (apart * places.to_dtype(main.dtype())?)?.mean_all()?,
            ONE_IMAGE => (apart.sum_all()? / (batch.len() as f64 - 1.0))?,
            UNASKED if !aux.track_op() => (apart.mean_all()? * 1.001)?,
            _ => apart.mean_all()?,
        };
        Ok(loss.to_dtype(main.dtype())?)
    }
}

#[test]
fn planted_declarations_are_found() {
    let right: Entry<Loss> = wrong(|_| Ok(Box::new(Odd::<RIGHT>)));
    assert_eq!(check_with(&right, &json!({})), Ok(()));
    found::<Loss>(
        |_| Ok(Box::new(Odd::<SCALE>)),
        &["invariance: scale: the scale 0.3 of main changes the loss"],
    );
    found::<Loss>(
        |_| Ok(Box::new(Odd::<SHIFT>)),
        &["invariance: shift: a shift of main changes the loss"],
    );
    found::<Loss>(
        |_| Ok(Box::new(Odd::<ORDER>)),
        &["another order of the images changes the loss"],
    );
    found::<Loss>(
        |_| Ok(Box::new(Odd::<ROTATION>)),
        &["invariance: rotation: a mirror of main changes the loss"],
    );
    found::<Loss>(
        |_| Ok(Box::new(Odd::<LOGITS>)),
        &["it declares `scale`, but looks at no embeddings"],
    );
}

#[test]
fn planted_shapes_and_numbers_are_found() {
    found::<Loss>(
        |_| Ok(Box::new(Odd::<WIDTHS>)),
        &["other shapes: main of another width must be an error, not a panic: an odd sum"],
    );
    found::<Loss>(|_| Ok(Box::new(Odd::<ONE_IMAGE>)), &["a batch of 1: the loss is inf"]);
    found::<Loss>(
        |_| Ok(Box::new(Odd::<WORDLESS>)),
        &["a batch of 1: it is refused without a message"],
    );
    found::<Loss>(
        |_| Ok(Box::new(Odd::<INFINITY>)),
        &["infinity: with inf in main the loss is", "its gradient in main is not a number"],
    );
    found::<Loss>(
        |_| Ok(Box::new(Odd::<RANKS>)),
        &["wrong shapes: main of rank 1 must be an error, not a panic"],
    );
    found::<Loss>(
        |_| Ok(Box::new(Odd::<UNASKED>)),
        &["gradients asked for one by one: the loss is", "where no gradient is wanted"],
    );
}

/// Code of another language may count in f32 whatever it is given; its gradient is checked no less.
#[test]
fn losses_in_single_precision() {
    let single: Entry<Loss> = wrong(|_| Ok(Box::new(Odd::<SINGLE>)));
    assert_eq!(check_with(&single, &json!({})), Ok(()));
    let all = rows(&single, Some(&json!({})), &mut |_| {});
    let precision = all.iter().find(|r| r.check == "first call").expect("it is checked");
    assert_eq!(precision.detail, "widths 7 and 5, counts in f32");
    found::<Loss>(
        |_| Ok(Box::new(Odd::<WRONG_SINGLE>)),
        &["the gradient of aux is not that of central differences"],
    );
}

#[test]
fn every_check_is_announced_and_passes_are_told_too() {
    let mut told = vec![];
    let right: Entry<Loss> = wrong(|_| Ok(Box::new(Odd::<RIGHT>)));
    let all = rows(&right, Some(&json!({})), &mut |event| match event {
        Event::Begin(what) => told.push(format!("begin {what}")),
        Event::End(row) => told.push(format!("{} {}", row.outcome, row.check)),
    });
    let expected: Vec<String> = all
        .iter()
        .flat_map(|r| [format!("begin {}", r.check), format!("{} {}", r.outcome, r.check)])
        .collect();
    assert_eq!(told, expected);
    let count = |outcome| all.iter().filter(|r| r.outcome == outcome).count();
    assert!(count(Outcome::Ok) > 15 && count(Outcome::Failed) == 5, "{all:#?}"); // its description
    assert!(all.iter().all(|r| r.seconds >= 0.0));
}

#[test]
fn plugins_are_run_by_the_name_of_their_kind() {
    let linked = catalog::kind(Loss::NAME).expect("a kind").plugins();
    let qrs = linked.iter().find(|p| p.name == "qrs").expect("it is linked");
    let all = run(qrs, Some(&json!({"sampler": "all"})), &mut |_| {}).expect("it is there");
    assert!(all.iter().all(|r| r.outcome == Outcome::Ok), "{all:#?}");
    assert!(all.iter().any(|r| r.check == "invariance: order of the images"));
    assert!(entry::<dyn tetlo_core::kinds::StopRule>(qrs).is_err());

    // Loaded code is found by its hash, and not by its name alone.
    let code = Code::new(Tier::Process, PathBuf::from("/odd.py"), "0dd".repeat(21));
    let code: &Code = Box::leak(Box::new(code));
    loaded::add(Entry { code: Some(code), ..wrong::<Loss>(|_| Ok(Box::new(Odd::<SCALE>))) });
    let kind = catalog::kind(Loss::NAME).expect("a kind");
    let plugin = kind.loaded(code, "Wrong").expect("it is loaded");
    assert!(catalog::find(kind, "Wrong").is_err());
    let all = run(&plugin, Some(&json!({})), &mut |_| {}).expect("it is there");
    let failed = all.iter().find(|r| r.check == "invariance: scale").expect("a row");
    assert_eq!(failed.outcome, Outcome::Failed);
}
