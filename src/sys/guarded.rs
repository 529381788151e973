//! Reads of mappings of disks in user space, where a page that cannot be read is a failed call and no end of the process.
//!
//! A load from a page that an image has lost, or that its medium cannot read, raises SIGBUS. The loads here are single instructions at known
//! addresses. The handler of the signal has the thread go on behind the instruction, which then finds the number of bytes or pages that are left.
//! Every other SIGBUS is passed to the handler that was there before.
#![allow(unsafe_code)]

/// Bytes of the smallest page.
const PAGE: usize = 4096;

/// Copies the bytes of a mapping, which other processes may change meanwhile. Returns whether all of them could be read: not on processors for
/// which this file has no instructions.
#[must_use]
pub fn copy(from: &[u8], to: &mut [u8]) -> bool {
    from.len() == to.len() && instructions::copy(from, to)
}

/// Reads a byte of each page of a mapping, so that the kernel brings the page into memory and into the page tables of this process. Returns
/// whether all of them could be read: not on processors for which this file has no instructions.
#[must_use]
pub fn touch(bytes: &[u8]) -> bool {
    instructions::touch(bytes)
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod instructions {
    use super::PAGE;
    use std::ffi::{c_int, c_void};
    use std::io;
    use std::mem::MaybeUninit;
    use std::sync::OnceLock;

    std::arch::global_asm!(
        ".pushsection .text.apparatus_guarded,\"ax\",@progbits",
        // (to: rdi, from: rsi, bytes: rdx) -> bytes that are left
        "apparatus_guarded_copy:",
        "    mov rcx, rdx",
        "apparatus_guarded_copy_load:",
        "    rep movsb",
        "apparatus_guarded_copy_end:",
        "    mov rax, rcx",
        "    ret",
        // (first page: rdi, pages: rsi) -> pages that are left
        "apparatus_guarded_touch:",
        "    mov rax, rsi",
        "    test rax, rax",
        "    jz apparatus_guarded_touch_end",
        "apparatus_guarded_touch_load:",
        "    mov cl, byte ptr [rdi]",
        "    add rdi, 4096",
        "    dec rax",
        "    jnz apparatus_guarded_touch_load",
        "apparatus_guarded_touch_end:",
        "    ret",
        ".popsection",
    );

    unsafe extern "sysv64" {
        fn apparatus_guarded_copy(to: *mut u8, from: *const u8, bytes: usize) -> usize;
        fn apparatus_guarded_touch(first: *const u8, pages: usize) -> usize;
        // The addresses of instructions; none of them is called.
        safe static apparatus_guarded_copy_load: u8;
        safe static apparatus_guarded_copy_end: u8;
        safe static apparatus_guarded_touch_load: u8;
        safe static apparatus_guarded_touch_end: u8;
    }

    /// What SIGBUS did before, once the handler is in place; `None` where it could not be installed.
    static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

    pub(super) fn copy(from: &[u8], to: &mut [u8]) -> bool {
        if !is_guarded() {
            return false;
        }
        // SAFETY: both ranges are those of slices of the same length, which do not overlap, and the instructions write nothing beyond `to`. They
        // read `from` as memory that may change; a page that cannot be read ends them early, because the handler is in place.
        unsafe { apparatus_guarded_copy(to.as_mut_ptr(), from.as_ptr(), from.len()) == 0 }
    }

    pub(super) fn touch(bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if !is_guarded() {
            return false;
        }
        let before = bytes.as_ptr().addr() % PAGE;
        let first = bytes.as_ptr().wrapping_sub(before);
        let pages = (before + bytes.len()).div_ceil(PAGE);
        // SAFETY: each page has a byte of the slice, so it is mapped. The instructions write nothing; a page that cannot be read ends them early,
        // because the handler is in place.
        unsafe { apparatus_guarded_touch(first, pages) == 0 }
    }

    fn is_guarded() -> bool {
        BEFORE.get_or_init(|| install().ok()).is_some()
    }

    /// Installs the handler and returns what was there before.
    fn install() -> io::Result<libc::sigaction> {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all fields of the structure are integers or an optional function, for which zeroes are valid.
        let action = unsafe { action.assume_init_mut() };
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: both pointers are to structures of this function, and the handler has the signature that its flags promise. It changes nothing
        // but the registers of the interrupted thread, and calls only functions that may be called in a handler.
        let done = unsafe { libc::sigaction(libc::SIGBUS, action, before.as_mut_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has succeeded, so it has filled the structure.
        Ok(unsafe { before.assume_init() })
    }

    /// Has a thread that could not read a page go on behind its load.
    extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let places = [
            (
                &raw const apparatus_guarded_copy_load,
                &raw const apparatus_guarded_copy_end,
            ),
            (
                &raw const apparatus_guarded_touch_load,
                &raw const apparatus_guarded_touch_end,
            ),
        ];
        // SAFETY: the kernel passes a valid context of the interrupted thread, which nothing else uses while the handler runs.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let Some(at) = registers.get_mut(libc::REG_RIP as usize) else {
            return;
        };
        // SAFETY: the kernel passes a valid description of the signal.
        let is_of_an_access = unsafe { (*info).si_code > 0 };
        let load = places.iter().find(|(load, _)| load.addr() as libc::greg_t == *at);
        if let (true, Some((_, end))) = (is_of_an_access, load) {
            *at = end.addr() as libc::greg_t;
            return;
        }
        let before = BEFORE.get().and_then(Option::as_ref);
        // SAFETY: the structure is one that the kernel has given, or null, which asks and changes nothing. An access that failed is repeated when the
        // handler returns, and raises the signal again; a signal that was sent is sent again.
        unsafe {
            if let Some(before) = before {
                libc::sigaction(signal, before, std::ptr::null_mut());
            } else {
                libc::signal(signal, libc::SIG_DFL);
            }
            if !is_of_an_access {
                libc::raise(signal);
            }
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
mod instructions {
    pub(super) fn copy(_: &[u8], _: &mut [u8]) -> bool {
        false
    }

    pub(super) fn touch(bytes: &[u8]) -> bool {
        bytes.is_empty()
    }
}

#[cfg(test)]
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use memmap2::MmapOptions;
    use std::os::unix::process::ExitStatusExt;

    /// A mapping of three pages of a file that has only two of them now.
    fn shortened() -> (std::fs::File, memmap2::Mmap) {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * PAGE).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        // SAFETY: the file is that of this test, which reads the mapping only as its subject does.
        let map = unsafe { MmapOptions::new().map(&file).unwrap() };
        file.set_len(2 * PAGE as u64).unwrap();
        (file, map)
    }

    #[test]
    fn bytes_that_are_there_are_copied_and_others_are_a_failed_copy() {
        let (_file, map) = shortened();
        let mut to = vec![0; 2 * PAGE - 3];
        assert!(copy(&map[3..2 * PAGE], &mut to));
        assert!(
            to.iter()
                .enumerate()
                .all(|(at, byte)| usize::from(*byte) == (at + 3) % 251)
        );
        for _ in 0..3 {
            let mut to = vec![0; 2 * PAGE];
            assert!(!copy(&map[PAGE..], &mut to));
            assert_eq!(
                to[0],
                u8::try_from(PAGE % 251).unwrap(),
                "the first page is there"
            );
        }
        assert!(!copy(&map[..5], &mut [0; 4]), "another length");
        assert!(copy(&[], &mut []));
    }

    #[test]
    fn pages_are_touched_up_to_the_one_of_the_last_byte() {
        let (_file, map) = shortened();
        assert!(touch(&map[..0]) && touch(&map[..2 * PAGE]) && touch(&map[PAGE - 1..PAGE + 1]));
        assert!(!touch(&map[..2 * PAGE + 1]) && !touch(&map[2 * PAGE - 1..2 * PAGE + 1]));
        assert!(touch(&map[1..2 * PAGE]), "as often as wanted");
    }

    /// Environment variable by which this test program ends by a signal in one of its tests.
    const END: &str = "APPARATUS_TEST_ENDS_BY_BUS_ERROR";

    #[test]
    fn every_other_bus_error_still_ends_the_process() {
        let (_file, map) = shortened();
        match std::env::var(END).as_deref() {
            Ok("load") => {
                assert!(!touch(&map[2 * PAGE..]));
                std::hint::black_box(map[2 * PAGE]);
            }
            Ok(_) => {
                assert!(!touch(&map[2 * PAGE..]));
                for _ in 0..3 {
                    signal_hook::low_level::raise(libc::SIGBUS).unwrap();
                }
            }
            Err(_) => {
                for way in ["load", "sent"] {
                    let test = "sys::guarded::tests::every_other_bus_error_still_ends_the_process";
                    let program = std::env::current_exe().unwrap();
                    let mut command = std::process::Command::new(program);
                    let end = command.args(["--exact", test]).env(END, way).output().unwrap();
                    assert_eq!(end.status.signal(), Some(libc::SIGBUS), "{way}");
                }
            }
        }
    }
}
