//! The processor's floating-point mode: rounding, denormal numbers, traps.
#![expect(unsafe_code, reason = "reads and writes control registers")]

use std::arch::asm;

/// The mode of this thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    /// MXCSR, or FPCR, without the flags of what has happened.
    control: u64,
    /// The x87 control word.
    x87: u16,
}

#[cfg(target_arch = "x86_64")]
impl Mode {
    /// Reads it.
    pub(super) fn now() -> Self {
        let (mut mxcsr, mut x87) = (0_u32, 0_u16);
        // SAFETY: both instructions write to the places they are given.
        unsafe {
            asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack));
            asm!("fnstcw [{}]", in(reg) &raw mut x87, options(nostack));
        }
        Self { control: u64::from(mxcsr & 0xFFC0), x87: x87 & 0x0F3F }
    }

    /// Sets it.
    pub(super) fn set(self) {
        let (mxcsr, x87) = (self.control as u32, self.x87);
        // SAFETY: what was read is a mode; no flag of an exception is set in it.
        unsafe {
            asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack));
            asm!("fldcw [{}]", in(reg) &raw const x87, options(nostack));
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Mode {
    /// Reads it.
    pub(super) fn now() -> Self {
        let control: u64;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack)) };
        Self { control, x87: 0 }
    }

    /// Sets it.
    pub(super) fn set(self) {
        // SAFETY: what was read is a mode.
        unsafe { asm!("msr fpcr, {}", in(reg) self.control, options(nomem, nostack)) };
    }
}
