//! The numbers that the reference computes with.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use candle_core::DType;

/// `f32`, `f64`, or [`Dual`] numbers of them. Whoever branches, branches on [`Scalar::to_f64`].
pub trait Scalar:
    Copy
    + Debug
    + Default
    + PartialEq
    + Send
    + Sync
    + Add<Output = Self>
    + AddAssign
    + Div<Output = Self>
    + Mul<Output = Self>
    + Neg<Output = Self>
    + Sub<Output = Self>
{
    /// The type in candle's tensors; `None`: it has none there, so tensor code cannot run on it.
    const DTYPE: Option<DType>;
    /// Nearest value of this type; a constant for derivatives.
    fn from_f64(x: f64) -> Self;
    /// The value.
    fn to_f64(self) -> f64;
    /// `1 / sqrt(self)`.
    #[must_use]
    fn rsqrt(self) -> Self;
    /// `1 / (1 + exp(-self))`.
    #[must_use]
    fn sigmoid(self) -> Self;
}

macro_rules! floats {
    ($($float:ty, $dtype:ident;)*) => {$(
        impl Scalar for $float {
            const DTYPE: Option<DType> = Some(DType::$dtype);
            fn from_f64(x: f64) -> Self {
                x as Self
            }
            fn to_f64(self) -> f64 {
                self.into()
            }
            fn rsqrt(self) -> Self {
                Self::from_f64(1.0 / self.to_f64().sqrt())
            }
            fn sigmoid(self) -> Self {
                Self::from_f64(1.0 / (1.0 + (-self.to_f64()).exp()))
            }
        }
    )*};
}

floats! {
    f32, F32;
    f64, F64;
}

/// `value + tangent ε` with `ε² = 0`: a number and its derivative along some direction. A function run
/// on dual numbers gives its Jacobian–vector product beside its value; a reverse pass gives the
/// Hessian–vector product beside the gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Dual<T> {
    /// The number.
    pub value: T,
    /// Its derivative.
    pub tangent: T,
}

impl<T: Scalar> Dual<T> {
    /// A number that does not move.
    pub fn constant(value: T) -> Self {
        Self { value, tangent: T::default() }
    }
}

impl<T: Scalar> Add for Dual<T> {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        Self { value: self.value + b.value, tangent: self.tangent + b.tangent }
    }
}

impl<T: Scalar> AddAssign for Dual<T> {
    fn add_assign(&mut self, b: Self) {
        self.value += b.value;
        self.tangent += b.tangent;
    }
}

impl<T: Scalar> Sub for Dual<T> {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        Self { value: self.value - b.value, tangent: self.tangent - b.tangent }
    }
}

impl<T: Scalar> Neg for Dual<T> {
    type Output = Self;
    fn neg(self) -> Self {
        Self { value: -self.value, tangent: -self.tangent }
    }
}

impl<T: Scalar> Mul for Dual<T> {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        let tangent = self.tangent * b.value + self.value * b.tangent;
        Self { value: self.value * b.value, tangent }
    }
}

impl<T: Scalar> Div for Dual<T> {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let value = self.value / b.value;
        Self { value, tangent: (self.tangent - value * b.tangent) / b.value }
    }
}

impl<T: Scalar> Scalar for Dual<T> {
    const DTYPE: Option<DType> = None;
    fn from_f64(x: f64) -> Self {
        Self::constant(T::from_f64(x))
    }
    fn to_f64(self) -> f64 {
        self.value.to_f64()
    }
    fn rsqrt(self) -> Self {
        let r = self.value.rsqrt();
        Self { value: r, tangent: T::from_f64(-0.5) * r * r * r * self.tangent }
    }
    fn sigmoid(self) -> Self {
        let s = self.value.sigmoid();
        Self { value: s, tangent: s * (T::from_f64(1.0) - s) * self.tangent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each rule against the derivative by hand, along `x = 0.7 + t`.
    #[test]
    fn rules_by_hand() {
        let x = Dual { value: 0.7f64, tangent: 1.0 };
        let two = Dual::from_f64(2.0);
        let near = |found: Dual<f64>, value: f64, tangent: f64| {
            assert!((found.value - value).abs() < 1e-15, "{found:?}: value {value}");
            assert!((found.tangent - tangent).abs() < 1e-15, "{found:?}: tangent {tangent}");
        };
        near(x * x - two * x + x, 0.49 - 0.7, 1.4 - 1.0);
        near(-(two / x), -2.0 / 0.7, 2.0 / 0.49);
        near(x / two, 0.35, 0.5);
        near(x.rsqrt(), 0.7f64.powf(-0.5), -0.5 * 0.7f64.powf(-1.5));
        let s = 1.0 / (1.0 + (-0.7f64).exp());
        near(x.sigmoid(), s, s * (1.0 - s));
        let mut sum = x;
        sum += two;
        near(sum, 2.7, 1.0);
        // Far out nothing overflows to NaN, and second derivatives are duals of duals.
        let far = Dual { value: -1e3f64, tangent: 1.0 }.sigmoid();
        assert_eq!((far.value, far.tangent), (0.0, 0.0));
        let x = Dual { value: x, tangent: Dual::from_f64(1.0) };
        let second = (x * x * x).tangent.tangent;
        assert!((second - 6.0 * 0.7).abs() < 1e-14, "{second}");
    }
}
