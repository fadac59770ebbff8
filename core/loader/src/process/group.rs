//! Process groups: a child and whatever it has started.
#![expect(unsafe_code, reason = "the standard library kills single processes only")]

use std::process::Child;

/// Kills a child that leads its process group, and the group with it.
pub(super) fn kill(child: &mut Child) {
    // A child that has been waited for has given its number back.
    if let (Ok(None), Ok(id)) = (child.try_wait(), libc::pid_t::try_from(child.id())) {
        // SAFETY: a system call without pointers. The child has not been waited for, so that the number
        // is still its own and that of the group it was started in.
        unsafe { libc::kill(-id, libc::SIGKILL) };
    }
    // The group is not there where the child was started without one of its own.
    let _ = child.kill();
    let _ = child.wait();
}
