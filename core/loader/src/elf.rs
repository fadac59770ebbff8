//! What a shared library's file says before any of its code runs.

/// ELF's number of this machine, and its name.
const HERE: (u16, &str) = if cfg!(target_arch = "x86_64") {
    (62, "x86-64")
} else if cfg!(target_arch = "aarch64") {
    (183, "aarch64")
} else {
    (0, std::env::consts::ARCH)
};

fn machine(number: u16) -> String {
    let known =
        [(62, "x86-64"), (183, "aarch64"), (3, "32-bit x86"), (40, "32-bit ARM"), (243, "RISC-V")];
    let name = known.iter().find(|(n, _)| *n == number).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("machine {number} of the ELF format"))
}

/// Does the file begin as an ELF file does?
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Checks that the file is a whole shared library for this machine. The loader of the system checks
/// less: a truncated file ends the process (SIGBUS).
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    if !is_elf(bytes) {
        return Err("not a shared library (no ELF header); build it with `cc -shared -fPIC` or \
                    `crate-type = [\"cdylib\"]`"
            .into());
    }
    let truncated = || format!("truncated: the file has only {} bytes", bytes.len());
    let [class, order] = bytes.get(4..6).and_then(|b| b.try_into().ok()).ok_or_else(truncated)?;
    if (class, order) != (2, 1) || HERE.0 == 0 {
        return Err(format!("not a library for {} (64 bit, little endian)", HERE.1));
    }
    let number = |at: u64, len: u64| -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = bytes.get(at..at.checked_add(len as usize)?)?;
        Some(bytes.iter().rev().fold(0, |all, b| all << 8 | u64::from(*b)))
    };
    let kind = number(16, 2).ok_or_else(truncated)?;
    let built_for = number(18, 2).ok_or_else(truncated)? as u16;
    if built_for != HERE.0 {
        return Err(format!("built for {}, this machine is {}", machine(built_for), HERE.1));
    }
    if kind != 3 {
        let what = if kind == 1 { "an object file" } else { "a program" };
        return Err(format!("{what}, not a shared library; link it with `-shared`"));
    }
    // Every segment of the program header, and the table of sections, must lie in the file.
    let whole = || -> Option<()> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let end = bytes.len() as u64;
        for i in 0..count {
            let header = table.checked_add(i.checked_mul(size)?)?;
            let (offset, in_file) =
                (number(header.checked_add(8)?, 8)?, number(header.checked_add(32)?, 8)?);
            (offset.checked_add(in_file)? <= end).then_some(())?;
        }
        (count > 0).then_some(())
    };
    whole().ok_or_else(|| {
        format!("truncated: the file has {} bytes, its segments need more", bytes.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_judged_without_a_panic() {
        // Every prefix of this program's own file, and it with bytes changed.
        let own = std::fs::read(std::env::current_exe().expect("a path")).expect("a file");
        assert!(check(&own).is_ok(), "{:?}", check(&own)); // position-independent programs look alike
        // What follows the last segment (symbols for debuggers) may be missing.
        let at = |from: usize, n: usize| {
            own[from..from + n].iter().rev().fold(0, |all, b| all << 8 | usize::from(*b))
        };
        let segment = |i: usize| at(32, 8) + i * at(54, 2);
        let ends = (0..at(56, 2)).map(|i| at(segment(i) + 8, 8) + at(segment(i) + 32, 8));
        let end = ends.max().expect("segments");
        assert!(check(&own[..end]).is_ok());
        for len in (0..end).step_by(end / 997 + 1).chain(0..200).chain([end - 1]) {
            assert!(check(&own[..len]).is_err(), "a prefix of {len} bytes passes");
        }
        let mut draws = tetlo_plugin::Stream::new([1, 2], [0; 4]);
        let mut head = own[..4096.min(own.len())].to_vec();
        for _ in 0..100_000 {
            let at = draws.below(head.len());
            let before = std::mem::replace(&mut head[at], draws.next_u32() as u8);
            let _ = check(&head);
            if draws.below(4) > 0 {
                head[at] = before;
            }
        }
    }
}
