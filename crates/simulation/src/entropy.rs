//! The seal over the machine's randomness: while it is on, a thread draws from its seed and nothing else.
//!
//! Owns: the symbols `getrandom` and `syscall` of the program this is linked into. The first is what the standard
//! library (keys of hash maps) and the crate `getrandom` from 0.3 on call, the second what `getrandom` 0.2, and
//! through it ring, calls. Always holds: threads without a seal get the kernel's randomness and every other
//! system call as before; a sealed thread's draws are a function of its seed and their order.
//! Leaves to others: the randomness that programs draw through their environment (`chance`).

#![allow(unsafe_code, reason = "symbols of the C library can only be taken over with the C interface")]

use std::cell::Cell;
use std::ffi::{CStr, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::chance::step;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on this thread's randomness follows from `seed`.
pub(crate) fn seal(seed: u64) {
    // The functions below lie in the same library as this one: naming them keeps the linker from leaving them out.
    std::hint::black_box((getrandom as *const (), syscall as *const ()));
    SEED.with(|state| state.set(Some(seed)));
}

/// This thread's randomness is the kernel's again.
pub(crate) fn unseal() {
    SEED.with(|state| state.set(None));
}

fn draw() -> Option<u64> {
    // A thread that ends has no seed any more, but may still draw.
    let draw = SEED.try_with(|seed| {
        let mut state = seed.get()?;
        let drawn = step(&mut state);
        seed.set(Some(state));
        Some(drawn)
    });
    draw.ok().flatten()
}

/// Fills `length` bytes from the seed; false, with nothing written, if this thread has none.
///
/// # Safety
/// `buffer` is writable for `length` bytes.
unsafe fn fill(buffer: *mut c_void, length: usize) -> bool {
    let mut written = 0;
    while written < length {
        let Some(drawn) = draw() else { return false };
        let bytes = drawn.to_le_bytes();
        let count = bytes.len().min(length - written);
        // SAFETY: written + count <= length, and the caller vouches for `length` bytes; `bytes` is our own.
        unsafe { buffer.cast::<u8>().add(written).copy_from_nonoverlapping(bytes.as_ptr(), count) };
        written += count;
    }
    true
}

type GetRandom = unsafe extern "C" fn(*mut c_void, usize, c_uint) -> isize;
type SystemCall = unsafe extern "C" fn(c_long, c_long, c_long, c_long, c_long, c_long, c_long) -> c_long;

/// The C library's own function behind one that is defined here.
fn next(known: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    let mut found = known.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: `name` ends with a zero byte; RTLD_NEXT is a valid handle.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        if found.is_null() {
            // Without it not even a mutex works.
            std::process::abort();
        }
        known.store(found, Ordering::Relaxed);
    }
    found
}

/// Takes the place of the C library's `getrandom`.
///
/// # Safety
/// As for the C library's: `buffer` is writable for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    // SAFETY: the caller vouches for the buffer.
    if length > 0 && unsafe { fill(buffer, length) } {
        return length.cast_signed();
    }
    // SAFETY: the symbol of this name has this type in every C library.
    let real = unsafe { std::mem::transmute::<*mut c_void, GetRandom>(next(&REAL, c"getrandom")) };
    // SAFETY: the arguments are the caller's.
    unsafe { real(buffer, length, flags) }
}

/// Takes the place of the C library's `syscall`, which takes any number of words. On x86-64 and AArch64 Linux the
/// first seven go by registers and the first of the stack alike whether they are declared or variable.
///
/// # Safety
/// As for the C library's: the arguments fit the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    one: c_long,
    two: c_long,
    three: c_long,
    four: c_long,
    five: c_long,
    six: c_long,
) -> c_long {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    if number == libc::SYS_getrandom
        && let (Ok(address), Ok(length)) = (usize::try_from(one), usize::try_from(two))
        && length > 0
    {
        let buffer = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: the caller vouches that the first argument is writable for as many bytes as the second says.
        if unsafe { fill(buffer, length) } {
            return two;
        }
    }
    // SAFETY: the symbol of this name takes a number and up to six words in every C library of Linux.
    let real = unsafe { std::mem::transmute::<*mut c_void, SystemCall>(next(&REAL, c"syscall")) };
    // SAFETY: the arguments are the caller's.
    unsafe { real(number, one, two, three, four, five, six) }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;

    use super::*;

    fn drawn(seed: Option<u64>) -> ([u8; 40], u64, i64) {
        std::thread::spawn(move || {
            if let Some(seed) = seed {
                seal(seed);
            }
            let mut bytes = [0; 40];
            ::getrandom::fill(&mut bytes).unwrap();
            let hash = RandomState::new().hash_one("a key");
            let mut by_call = [0_u8; 8];
            // SAFETY: the buffer is as long as the call is told.
            let filled =
                unsafe { libc::syscall(libc::SYS_getrandom, by_call.as_mut_ptr(), by_call.len(), 0) };
            assert_eq!(filled, 8);
            unseal();
            (bytes, hash, i64::from_le_bytes(by_call))
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_sealed_thread_draws_from_its_seed_and_others_from_the_kernel() {
        let (bytes, hash, called) = drawn(Some(7));
        assert_eq!(drawn(Some(7)), (bytes, hash, called));
        let other = drawn(Some(8));
        assert!(other.0 != bytes && other.1 != hash && other.2 != called);
        assert_ne!(drawn(None), drawn(None));
    }
}
