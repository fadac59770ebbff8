//! One zeroed block of floats for the whole life of a plan.
#![expect(unsafe_code, reason = "memory mapping and raw allocation")]

use crate::counters::{COUNTERS, count_many};
use crate::error::{Error, Result};
use std::sync::atomic::Ordering::Relaxed;

/// 64-byte aligned, zeroed. Pages that are never touched cost nothing; large blocks ask for huge
/// pages.
#[derive(Debug)]
pub(crate) struct Arena {
    ptr: *mut f32,
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the block is owned; who may touch which part of it, and when, is the executor's business.
unsafe impl Send for Arena {}
// SAFETY: as above; `Arena` itself only hands out the address.
unsafe impl Sync for Arena {}

const HUGE: usize = 2 << 20;
#[cfg(not(unix))]
const ALIGN: usize = 64;

impl Arena {
    #[cfg(unix)]
    pub(crate) fn new(floats: usize) -> Result<Self> {
        let payload = (floats.max(16) * size_of::<f32>()).next_multiple_of(4096);
        let align = if payload >= HUGE { HUGE } else { 0 };
        let bytes = payload + align;
        // SAFETY: a private anonymous mapping at an address of the system's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::Memory { bytes });
        }
        let shift = if align == 0 { 0 } else { base.align_offset(align) };
        // SAFETY: the mapping has `align` spare bytes, so the shifted payload lies inside it.
        let ptr = unsafe { base.cast::<u8>().add(shift) };
        #[cfg(target_os = "linux")]
        if align > 0 {
            // SAFETY: a hint about memory that this arena owns; failure is harmless.
            unsafe { libc::madvise(ptr.cast(), payload, libc::MADV_HUGEPAGE) };
        }
        count_many(&COUNTERS.arena_bytes, bytes as u64);
        Ok(Self { ptr: ptr.cast(), base: base.cast(), bytes })
    }

    #[cfg(not(unix))]
    pub(crate) fn new(floats: usize) -> Result<Self> {
        let bytes = (floats.max(16) * size_of::<f32>()).next_multiple_of(ALIGN);
        let layout = std::alloc::Layout::from_size_align(bytes, ALIGN)
            .map_err(|_| Error::Memory { bytes })?;
        // SAFETY: the size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        if base.is_null() {
            return Err(Error::Memory { bytes });
        }
        count_many(&COUNTERS.arena_bytes, bytes as u64);
        Ok(Self { ptr: base.cast(), base, bytes })
    }

    pub(crate) fn ptr(&self) -> *mut f32 {
        self.ptr
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        COUNTERS.arena_bytes.fetch_sub(self.bytes as u64, Relaxed);
        #[cfg(unix)]
        // SAFETY: exactly the mapping made in `new`.
        unsafe {
            libc::munmap(self.base.cast(), self.bytes);
        }
        #[cfg(not(unix))]
        // SAFETY: exactly the allocation made in `new`.
        unsafe {
            std::alloc::dealloc(
                self.base,
                std::alloc::Layout::from_size_align_unchecked(self.bytes, ALIGN),
            );
        }
    }
}
