//! Counts what the current thread allocates, in number and bytes.
//!
//! Written for this purpose, because the clock runs in the same program: counting must cost next to nothing.
//! So it uses neither atomics nor a lock, and passes `realloc` on to the system.
#![allow(
    unsafe_code,
    reason = "GlobalAlloc is an unsafe trait; every call is passed to the system's allocator"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The allocations of some work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allocated {
    /// Calls of the allocator that requested memory.
    pub count: u64,
    /// The most bytes that the work held at any moment, beyond what was held before it.
    pub peak: u64,
    /// Bytes held after the work beyond those before it; negative if it freed more than it allocated.
    pub kept: i64,
}

/// Does the work and counts its allocations. Allocations of other threads do not count.
pub fn during<R>(work: impl FnOnce() -> R) -> (R, Allocated) {
    let before = COUNTS.get();
    COUNTS.set(Counts { peak: before.held, ..before });
    let result = work();
    let after = COUNTS.get();
    let allocated = Allocated {
        count: after.count - before.count,
        peak: (after.peak - before.held).cast_unsigned(),
        kept: after.held - before.held,
    };
    // An enclosing count must neither miss this peak nor lose its own.
    COUNTS.set(Counts { peak: after.peak.max(before.peak), ..after });
    (result, allocated)
}

#[derive(Clone, Copy)]
struct Counts {
    count: u64,
    /// Bytes allocated less bytes freed; one thread may free what another has allocated.
    held: i64,
    peak: i64,
}

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { count: 0, held: 0, peak: 0 }) };
}

fn record(allocated: usize, freed: usize) {
    let Counts { count, held, peak } = COUNTS.get();
    let held = held + allocated as i64 - freed as i64;
    COUNTS.set(Counts { count: count + u64::from(allocated > 0), held, peak: peak.max(held) });
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator. Counting uses a thread-local cell that
// needs neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        record(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        record(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        record(0, layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        record(size, layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_and_kept_bytes_are_counted() {
        let (kept, allocated) = during(|| {
            drop(std::hint::black_box(vec![0_u8; 3_000]));
            std::hint::black_box(vec![0_u8; 1_000])
        });
        assert_eq!(allocated, Allocated { count: 2, peak: 3_000, kept: 1_000 });
        let ((), allocated) = during(|| drop(kept));
        assert_eq!(allocated, Allocated { count: 0, peak: 0, kept: -1_000 });
    }

    #[test]
    fn counting_may_be_nested() {
        let (inner, outer) = during(|| {
            let held = std::hint::black_box(vec![0_u8; 500]);
            let ((), inner) = during(|| drop(std::hint::black_box(vec![0_u8; 100])));
            drop(held);
            inner
        });
        assert_eq!(inner, Allocated { count: 1, peak: 100, kept: 0 });
        assert_eq!(outer, Allocated { count: 2, peak: 600, kept: 0 });
    }
}
