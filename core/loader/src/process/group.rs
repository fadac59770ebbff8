//! Process groups: a child and whatever it has started.
#![expect(unsafe_code, reason = "the standard library knows single processes only")]

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// What a child that has not been waited for is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It runs.
    Running,
    /// It has ended; its number, and that of its group, is still its own.
    Ended,
    /// It has been waited for.
    Gone,
}

/// Starts the child in a group of its own, and has the system kill it when its parent's thread ends,
/// however that ends.
pub(super) fn lead(command: &mut Command) {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        let with_parent = move || {
            // SAFETY: system calls without pointers, allowed between fork and exec.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // The parent may have ended before.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    libc::_exit(1);
                }
            }
            Ok(())
        };
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe { command.pre_exec(with_parent) };
    }
}

/// What the child is doing, without taking its end away from whoever waits for it.
pub(super) fn state(child: &Child) -> State {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is a place for what the call writes; zeros say that nothing has ended.
    unsafe {
        match libc::waitid(libc::P_PID, child.id(), info.as_mut_ptr(), options) {
            0 if info.assume_init().si_pid() == 0 => State::Running,
            0 => State::Ended,
            _ => State::Gone,
        }
    }
}

/// Kills a child that leads its process group, and what is left of the group.
pub(super) fn kill(child: &mut Child) {
    if let (State::Running | State::Ended, Ok(id)) =
        (state(child), libc::pid_t::try_from(child.id()))
    {
        // SAFETY: a system call without pointers. The child has not been waited for, so that the number
        // is still its own and that of the group it was started in.
        unsafe { libc::kill(-id, libc::SIGKILL) };
    }
    // The group is not there where the child was started without one of its own.
    let _ = child.kill();
    let _ = child.wait();
}
