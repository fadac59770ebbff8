//! Pieces that several transfer losses share.

use candle_core::{D, Tensor};
use tetlo_core::{Error, Result};

/// The value of an option that must be positive.
pub(super) fn positive(key: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::config(format!("`{key}` must be a positive number, got `{value}`")))
}

/// The larger of x and `floor`, without a gradient where that is the floor: a root of it has no
/// infinite slope. NaN stays.
pub(super) fn at_least(x: &Tensor, floor: f64) -> Result<Tensor> {
    let below = x.detach().lt(floor)?.to_dtype(x.dtype())?;
    Ok(((x * (1.0 - &below)?)? + (below * floor)?)?)
}

/// |x|, with gradient 0 at 0. NaN stays.
pub(super) fn absolute(x: &Tensor) -> Result<Tensor> {
    let at = x.detach();
    let sign = (at.gt(0.0)?.to_dtype(x.dtype())? - at.lt(0.0)?.to_dtype(x.dtype())?)?;
    Ok((x * sign)?)
}

/// Smallest norm that [`unit`] divides by, that of `PyTorch`'s `normalize`.
pub(super) const SMALLEST_NORM: f64 = 1e-12;

/// x / max(‖x‖, 1e-12), over the last dimension.
pub(super) fn unit(x: &Tensor) -> Result<Tensor> {
    let squared = x.sqr()?.sum_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&at_least(&squared, SMALLEST_NORM.powi(2))?.sqrt()?)?)
}

/// Huber's function with its knee at 1: x²/2 inside, |x| − ½ outside.
pub(super) fn huber(x: &Tensor) -> Result<Tensor> {
    let size = absolute(x)?;
    let outside = size.detach().ge(1.0)?.to_dtype(x.dtype())?;
    let inside = ((x.sqr()? * 0.5)? * (1.0 - &outside)?)?;
    Ok((inside + ((size - 0.5)? * outside)?)?)
}

/// Logarithms of the softmax of logits / T.
pub(super) fn log_softmax(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    Ok(candle_nn::ops::log_softmax(&(logits / temperature)?, D::Minus1)?)
}

/// The number of classes that both models score.
pub(super) fn same_classes(main: &Tensor, aux: &Tensor) -> Result<usize> {
    let (of_main, of_aux) = (main.dim(1)?, aux.dim(1)?);
    if of_main == of_aux {
        return Ok(of_main);
    }
    Err(Error::Invalid(format!(
        "both models must score the same classes, got {of_main} and {of_aux}"
    )))
}

/// Rows with a 1 in the column of the label, of the type of `like`.
pub(super) fn one_hot(labels: &[u32], classes: usize, like: &Tensor) -> Result<Tensor> {
    let mut rows = vec![0f64; labels.len() * classes];
    for (i, label) in labels.iter().map(|l| *l as usize).enumerate() {
        if label >= classes {
            return Err(Error::Invalid(format!(
                "the label {label} of image {i} is not one of {classes} classes"
            )));
        }
        rows[i * classes + label] = 1.0;
    }
    let rows = Tensor::from_vec(rows, (labels.len(), classes), like.device())?;
    Ok(rows.to_dtype(like.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn with_slopes(f: fn(&Tensor) -> Result<Tensor>, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let x = Var::new(x, &Device::Cpu).unwrap();
        let y = f(&x).unwrap();
        let slopes = y.sum_all().unwrap().backward().unwrap();
        (y.to_vec1().unwrap(), slopes.get(&x).unwrap().to_vec1().unwrap())
    }

    #[test]
    fn kinks_have_one_sided_or_no_slopes() {
        let (values, slopes) = with_slopes(huber, &[-3.0, -1.0, 0.0, 0.5, 1.0, 2.0]);
        assert_eq!(values, [2.5, 0.5, 0.0, 0.125, 0.5, 1.5]);
        assert_eq!(slopes, [-1.0, -1.0, 0.0, 0.5, 1.0, 1.0]);
        let (values, slopes) = with_slopes(absolute, &[-2.0, 0.0, 3.0]);
        assert_eq!((values, slopes), (vec![2.0, 0.0, 3.0], vec![-1.0, 0.0, 1.0]));
        let (values, slopes) =
            with_slopes(|x| at_least(x, 0.25)?.sqrt().map_err(Into::into), &[0.0, 0.2, 4.0]);
        assert_eq!((values, slopes), (vec![0.5, 0.5, 2.0], vec![0.0, 0.0, 0.25]));
    }

    #[test]
    fn not_a_number_stays() {
        for f in [huber, absolute, |x: &Tensor| at_least(x, 1.0)] {
            assert!(with_slopes(f, &[f64::NAN]).0[0].is_nan());
        }
    }

    #[test]
    fn unit_rows() {
        let rows = Tensor::new(&[[3.0, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let unit: Vec<Vec<f64>> = unit(&rows).unwrap().to_vec2().unwrap();
        assert_eq!(unit, [[0.6, 0.8], [0.0, 0.0]]);
    }

    #[test]
    fn labels_out_of_range_are_named() {
        let like = Tensor::zeros(1, candle_core::DType::F64, &Device::Cpu).unwrap();
        let rows: Vec<Vec<f64>> = one_hot(&[1, 0], 2, &like).unwrap().to_vec2().unwrap();
        assert_eq!(rows, [[0.0, 1.0], [1.0, 0.0]]);
        let error = one_hot(&[0, 3], 3, &like).unwrap_err().to_string();
        assert_eq!(error, "the label 3 of image 1 is not one of 3 classes");
    }
}
