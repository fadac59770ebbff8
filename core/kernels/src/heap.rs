//! The C library's heap, which candle's tensors live on.
#![expect(unsafe_code, reason = "two settings of the C library's allocator")]

/// Asks the allocator to keep what is freed: a search step frees and takes several vectors as long as
/// all weights, and getting their pages from the system anew each time costs 2 to 3 % of it. For
/// programs to call once, at their start; does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// The most that glibc accepts: longer blocks are mapped and unmapped one by one.
        const MAPPED_FROM: libc::c_int = 32 << 20;
        const KEPT: libc::c_int = 256 << 20;
        // SAFETY: thread-safe calls that only set thresholds; failure is harmless.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        }
    }
}
