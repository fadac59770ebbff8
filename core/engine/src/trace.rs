//! Traces of recorded searches, as stopping rules read them.

use serde_json::{Value, json};
use tetlo_core::genotype::Genotype;
use tetlo_core::kinds::Trace;
use tetlo_core::{Error, Result};

/// Reads a recorded search: `genotype_per_epoch` (`{"normal": [[op, input], …], "reduce": …}`, or
/// `{"arch": "|…|"}`), and, where computed, `hessian_epoch` and `hessian_lambda_max`.
///
/// # Errors
/// A field is missing or of another form.
pub fn from_json(value: &Value) -> Result<Trace> {
    let bad = |what: &str| Error::Data(format!("a trace needs {what}"));
    let list = value
        .get("genotype_per_epoch")
        .and_then(Value::as_array)
        .ok_or_else(|| bad("a list `genotype_per_epoch`"))?;
    let mut genotypes = Vec::with_capacity(list.len());
    for genotype in list {
        let mut genotype = genotype.clone();
        if let Some(object) = genotype.as_object_mut()
            && !object.contains_key("arch")
        {
            for cell in ["normal", "reduce"] {
                let nodes = object.get(cell).and_then(Value::as_array).map_or(0, |l| l.len() / 2);
                let concat: Vec<usize> = (2..nodes + 2).collect();
                object.entry(format!("{cell}_concat")).or_insert_with(|| json!(concat));
            }
        }
        genotypes.push(Genotype::from_json(&genotype)?);
    }
    let numbers = |key: &str| -> Result<Vec<f64>> {
        match value.get(key) {
            None | Some(Value::Null) => Ok(vec![]),
            Some(v) => {
                serde_json::from_value(v.clone()).map_err(|_| bad(&format!("numbers in `{key}`")))
            }
        }
    };
    let (epochs, lambda) = (numbers("hessian_epoch")?, numbers("hessian_lambda_max")?);
    if epochs.len() != lambda.len() {
        return Err(bad("as many `hessian_epoch` as `hessian_lambda_max`"));
    }
    let lambda_max = epochs.iter().map(|e| *e as usize).zip(lambda).collect();
    Ok(Trace { epochs: genotypes.len(), genotypes, lambda_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::foreign::trace_to_json;

    #[test]
    fn a_trace_for_foreign_rules_has_the_form_of_recorded_ones() {
        let darts = "Genotype(normal=[('skip_connect', 0), ('none', 1)], normal_concat=range(2, 3), \
                     reduce=[('none', 0), ('none', 1)], reduce_concat=range(2, 3))";
        let genotypes = [darts, "|none~0|"].map(|text| Genotype::parse(text).unwrap());
        let trace = Trace {
            genotypes: genotypes.to_vec(),
            lambda_max: vec![(0, 0.1), (1, 2.5)],
            epochs: 2,
        };
        let read = from_json(&trace_to_json(&trace)).unwrap();
        assert_eq!(read.genotypes, trace.genotypes);
        assert_eq!(read.lambda_max, trace.lambda_max);
        assert_eq!(read.epochs, trace.epochs);
    }
}
