//! NumPy's npz files.

use candle_core::{DType, Device, Tensor};
use npyz::{DType as Npy, TypeChar, WriterBuilder};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek};
use std::path::Path;
use tetlo_core::{Error, Result};

/// An array: floats keep their width (as f32 or f64), integers become i64.
pub type Arrays = BTreeMap<String, Tensor>;

/// Reads all arrays of an npz file, in C order whatever their order on disk.
///
/// # Errors
/// The file is missing or not an npz, or an array is neither float nor integer; the message names
/// file and array.
pub fn read(path: &Path) -> Result<Arrays> {
    let bytes =
        std::fs::read(path).map_err(|e| Error::io(format!("cannot read {}", path.display()), e))?;
    from_bytes(&bytes).map_err(|e| match e {
        Error::Data(what) => Error::Data(format!("{}: {what}", path.display())),
        other => other,
    })
}

/// The same from memory.
pub fn from_bytes(bytes: &[u8]) -> Result<Arrays> {
    let bad = |e: &dyn std::fmt::Display| Error::Data(format!("not an npz file ({e})"));
    let mut archive = npyz::zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| bad(&e))?;
    let mut arrays = Arrays::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(|e| bad(&e))?;
        let Some(name) = entry.name().strip_suffix(".npy").map(str::to_owned) else { continue };
        let failed = |e: std::io::Error| Error::Data(format!("array `{name}`: {e}"));
        // To its end: only there is the checksum compared.
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(failed)?;
        let file = npyz::NpyFile::new(content.as_slice()).map_err(failed)?;
        arrays.insert(name.clone(), tensor(&name, file)?);
    }
    Ok(arrays)
}

fn tensor<R: Read>(name: &str, file: npyz::NpyFile<R>) -> Result<Tensor> {
    let failed = |e: &dyn std::fmt::Display| Error::Data(format!("array `{name}`: {e}"));
    let shape: Vec<usize> = file.shape().iter().map(|d| *d as usize).collect();
    let fortran = file.order() == npyz::Order::Fortran;
    let Npy::Plain(kind) = file.dtype() else {
        return Err(failed(&"structured arrays are not supported"));
    };
    macro_rules! values {
        ($read:ty, $as:ty) => {{
            let mut out: Vec<$as> = Vec::new();
            for v in file.data::<$read>().map_err(|e| failed(&e))? {
                out.push(<$as>::from(v.map_err(|e| failed(&e))?));
            }
            place(out, &shape, fortran)?
        }};
    }
    let tensor = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Float, 8) => values!(f64, f64),
        (TypeChar::Float, 4) => values!(f32, f32),
        (TypeChar::Int, 8) => values!(i64, i64),
        (TypeChar::Int, 4) => values!(i32, i64),
        (TypeChar::Int, 2) => values!(i16, i64),
        (TypeChar::Int, 1) => values!(i8, i64),
        (TypeChar::Uint, 1) => values!(u8, i64),
        (TypeChar::Uint, 2) => values!(u16, i64),
        (TypeChar::Uint, 4) => values!(u32, i64),
        (TypeChar::Uint, 8) => {
            let mut out = Vec::new();
            for v in file.data::<u64>().map_err(|e| failed(&e))? {
                let v = v.map_err(|e| failed(&e))?;
                out.push(i64::try_from(v).map_err(|e| failed(&e))?);
            }
            place(out, &shape, fortran)?
        }
        (TypeChar::Bool, _) => {
            let mut out = Vec::new();
            for v in file.data::<bool>().map_err(|e| failed(&e))? {
                out.push(i64::from(v.map_err(|e| failed(&e))?));
            }
            place(out, &shape, fortran)?
        }
        _ => return Err(failed(&format!("type {kind} is not supported"))),
    };
    Ok(tensor)
}

fn place<T: candle_core::WithDType>(
    values: Vec<T>,
    shape: &[usize],
    fortran: bool,
) -> Result<Tensor> {
    if !fortran {
        return Ok(Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    let axes: Vec<usize> = (0..shape.len()).rev().collect();
    Ok(Tensor::from_vec(values, reversed, &Device::Cpu)?.permute(axes)?.contiguous()?)
}

/// An npz file of f32, f64 and i64 arrays, uncompressed, in the order given.
pub fn to_bytes(arrays: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    {
        let mut writer = npyz::npz::NpzWriter::new(&mut out);
        for (name, tensor) in arrays {
            match tensor.dtype() {
                DType::F64 => put::<f64, _>(&mut writer, name, tensor)?,
                DType::F32 => put::<f32, _>(&mut writer, name, tensor)?,
                DType::I64 => put::<i64, _>(&mut writer, name, tensor)?,
                other => put::<f32, _>(&mut writer, name, &tensor.to_dtype(DType::F32)?)
                    .map_err(|e| Error::Data(format!("array `{name}` of type {other:?}: {e}")))?,
            }
        }
    }
    Ok(out.into_inner())
}

fn put<T, W>(writer: &mut npyz::npz::NpzWriter<W>, name: &str, tensor: &Tensor) -> Result<()>
where
    T: candle_core::WithDType + npyz::AutoSerialize,
    W: std::io::Write + Seek,
{
    let failed = |e: std::io::Error| Error::Data(format!("array `{name}`: {e}"));
    let shape: Vec<u64> = tensor.dims().iter().map(|d| *d as u64).collect();
    let values = tensor.flatten_all()?.to_vec1::<T>()?;
    let mut array = writer
        // No date: equal arrays are equal bytes.
        .array(
            name,
            npyz::zip::write::FileOptions::default()
                .last_modified_time(npyz::zip::DateTime::default()),
        )
        .map_err(failed)?
        .default_dtype()
        .shape(&shape)
        .begin_nd()
        .map_err(failed)?;
    array.extend(values).map_err(failed)?;
    array.finish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_round_trip() -> Result<()> {
        let a = Tensor::arange(0f64, 6.0, &Device::Cpu)?.reshape((2, 3))?;
        let b = Tensor::new(&[1i64, -2], &Device::Cpu)?;
        let scalar = Tensor::new(2.5f32, &Device::Cpu)?;
        let list = [("a/x".to_owned(), a.clone()), ("b".into(), b), ("s".into(), scalar)];
        let read = from_bytes(&to_bytes(&list)?)?;
        assert_eq!(read["a/x"].to_vec2::<f64>()?, a.to_vec2::<f64>()?);
        assert_eq!(read["b"].to_vec1::<i64>()?, vec![1, -2]);
        assert_eq!(read["s"].dims(), &[] as &[usize]);
        Ok(())
    }

    #[test]
    fn a_flipped_byte_is_an_error() -> Result<()> {
        let values = Tensor::arange(0f32, 4096.0, &Device::Cpu)?;
        let mut bytes = to_bytes(&[("x".to_owned(), values)])?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let error = from_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains("array `x`"), "{error}");
        Ok(())
    }

    #[test]
    fn noise_is_an_error() {
        assert!(from_bytes(b"").is_err());
        assert!(from_bytes(b"PK\x03\x04 not really").is_err());
    }
}
