//! Small dense matrices in f64, apart from every tensor library: what closed forms are made of.

use candle_core::{DType, Device, Tensor};
use tetlo_core::{Error, Result};

/// A matrix, by rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    pub(super) fn new(rows: usize, columns: usize, f: impl Fn(usize, usize) -> f64) -> Self {
        let values = (0..rows * columns).map(|i| f(i / columns, i % columns)).collect();
        Self { rows, columns, values }
    }

    pub(super) fn column(values: &[f64]) -> Self {
        Self::new(values.len(), 1, |i, _| values[i])
    }

    /// A tensor of two dimensions.
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
        Ok(Self { rows, columns, values })
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// All values, by rows.
    pub(super) fn values(&self) -> &[f64] {
        &self.values
    }

    /// All values as a flat tensor.
    pub(super) fn flat(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.values, self.values.len(), &Device::Cpu)?)
    }

    pub(super) fn transposed(&self) -> Self {
        Self::new(self.columns, self.rows, |i, j| self.at(j, i))
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        debug_assert_eq!(self.columns, other.rows);
        Self::new(self.rows, other.columns, |i, j| {
            (0..self.columns).map(|k| self.at(i, k) * other.at(k, j)).sum()
        })
    }

    /// self + factor · other
    pub(super) fn plus(&self, factor: f64, other: &Self) -> Self {
        Self::new(self.rows, self.columns, |i, j| self.at(i, j) + factor * other.at(i, j))
    }

    pub(super) fn scaled(&self, factor: f64) -> Self {
        Self::new(self.rows, self.columns, |i, j| factor * self.at(i, j))
    }

    /// self + factor · identity
    pub(super) fn shifted(&self, factor: f64) -> Self {
        Self::new(self.rows, self.columns, |i, j| self.at(i, j) + if i == j { factor } else { 0.0 })
    }

    /// A bound on the largest eigenvalue of a symmetric matrix: the smaller of the row-sum norm and
    /// the Frobenius norm.
    pub(super) fn largest_eigenvalue_below(&self) -> f64 {
        let rows = (0..self.rows).map(|i| self.row(i).iter().map(|v| v.abs()).sum::<f64>());
        let frobenius = self.values.iter().map(|v| v * v).sum::<f64>().sqrt();
        rows.fold(0.0, f64::max).min(frobenius)
    }

    /// self⁻¹ · right for a symmetric positive definite matrix, by Cholesky's factors.
    ///
    /// # Errors
    /// It is not positive definite.
    pub(super) fn solve(&self, right: &Self) -> Result<Self> {
        let n = self.rows;
        let mut factor = Self::new(n, n, |_, _| 0.0);
        for i in 0..n {
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| factor.at(i, k) * factor.at(j, k)).sum();
                let rest = self.at(i, j) - known;
                factor.values[i * n + j] = if i > j {
                    rest / factor.at(j, j)
                } else if rest > 0.0 {
                    rest.sqrt()
                } else {
                    return Err(Error::Invalid(
                        "the inner problem has no unique solution: raise `weight-decay`".into(),
                    ));
                };
            }
        }
        let mut out = right.clone();
        for c in 0..right.columns {
            for i in 0..n {
                let known: f64 = (0..i).map(|k| factor.at(i, k) * out.at(k, c)).sum();
                out.values[i * right.columns + c] = (out.at(i, c) - known) / factor.at(i, i);
            }
            for i in (0..n).rev() {
                let known: f64 = (i + 1..n).map(|k| factor.at(k, i) * out.at(k, c)).sum();
                out.values[i * right.columns + c] = (out.at(i, c) - known) / factor.at(i, i);
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_by_hand() {
        // 4x + 2y = 10 and 2x + 3y = 11: x = 1, y = 3.
        let matrix = Matrix::new(2, 2, |i, j| [[4.0, 2.0], [2.0, 3.0]][i][j]);
        let solution = matrix.solve(&Matrix::column(&[10.0, 11.0])).unwrap();
        assert!((solution.at(0, 0) - 1.0).abs() < 1e-14 && (solution.at(1, 0) - 3.0).abs() < 1e-14);
        // Row sums 6 and 5, Frobenius √33 = 5.74; the largest eigenvalue is 5.56.
        assert!((matrix.largest_eigenvalue_below() - 33f64.sqrt()).abs() < 1e-14);
        let singular = Matrix::new(2, 2, |_, _| 1.0);
        assert!(singular.solve(&Matrix::column(&[1.0, 1.0])).is_err());
    }

    #[test]
    fn products_by_hand() {
        let a = Matrix::new(2, 3, |i, j| (3 * i + j) as f64);
        assert_eq!(a.transposed().row(1), [1.0, 4.0]);
        assert_eq!(a.times(&Matrix::column(&[1.0, 10.0, 100.0])).values(), [210.0, 543.0]);
        assert_eq!(a.plus(2.0, &a).row(0), [0.0, 3.0, 6.0]);
    }
}
