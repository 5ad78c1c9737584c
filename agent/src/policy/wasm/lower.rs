//! The samples of a snapshot, written into a guest's memory a list at a time.
//!
//! wasmtime's derived `Lower` looks the guest's memory and the field's type up again for every field and
//! every discriminant: hundreds of times for one snapshot, most of what a call costs. Here a record
//! writes its fields in order into a slice of that memory, with the padding that the canonical ABI
//! prescribes. A test holds every record against the derived code.
#![expect(unsafe_code, reason = "wasmtime's traits are unsafe to implement; every body here is safe")]

use super::wire::{AppSample, CpuSample, DomainSample, Done, Grant, SignalSample};
use std::mem::MaybeUninit;
use wasmtime::component::__internal::{InterfaceType, LowerContext};
use wasmtime::component::{ComponentType, Lower};

/// One record's place in the guest's memory, and how far it is written.
pub struct Row<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Row<'_> {
    /// A number of `N` bytes, aligned to its size.
    #[inline]
    fn put<const N: usize>(&mut self, value: [u8; N]) {
        self.at = self.at.next_multiple_of(N);
        self.bytes[self.at..self.at + N].copy_from_slice(&value);
        self.at += N;
    }

    /// A discriminant of one byte, then the number, both aligned to the number's size.
    #[inline]
    fn option<const N: usize>(&mut self, value: Option<[u8; N]>) {
        self.at = self.at.next_multiple_of(N);
        self.bytes[self.at] = u8::from(value.is_some());
        self.bytes[self.at + N..self.at + 2 * N].copy_from_slice(&value.unwrap_or([0; N]));
        self.at += 2 * N;
    }

    /// Leaves out a list's pointer and length.
    fn skip_list(&mut self) {
        self.at = self.at.next_multiple_of(4) + 8;
    }
}

/// A record that writes itself.
pub trait Packed: ComponentType {
    /// Its fields, in the order of the WIT; lists are left out.
    fn pack(&self, row: &mut Row<'_>);
}

/// `count` records' place at `offset`.
fn rows<'a, R: Packed, T>(
    cx: &'a mut LowerContext<'_, T>,
    offset: usize,
    count: usize,
) -> wasmtime::Result<std::slice::ChunksExactMut<'a, u8>> {
    let size = R::SIZE32.saturating_mul(count);
    let place = cx.as_slice_mut().get_mut(offset..).and_then(|rest| rest.get_mut(..size));
    let place = place.ok_or_else(|| wasmtime::Error::msg("a list is lowered outside the guest's memory"))?;
    Ok(place.chunks_exact_mut(R::SIZE32))
}

fn pack_all<R: Packed, T>(cx: &mut LowerContext<'_, T>, offset: usize, items: &[R]) -> wasmtime::Result<()> {
    for (bytes, item) in rows::<R, T>(cx, offset, items.len())?.zip(items) {
        item.pack(&mut Row { bytes, at: 0 });
    }
    Ok(())
}

/// These records only occur in lists and in records that themselves lie in memory.
fn never_flat() -> wasmtime::Error {
    wasmtime::Error::msg("a sample is passed in memory, not in arguments")
}

macro_rules! lower_packed {
    ($($record:ty),*) => {$(
        // SAFETY: `linear_lower_to_flat` initialises nothing and says so by an error; the others write
        // through checked slices of the guest's memory, which holds whatever the guest likes anyway.
        unsafe impl Lower for $record {
            fn linear_lower_to_flat<T>(
                &self,
                _: &mut LowerContext<'_, T>,
                _: InterfaceType,
                _: &mut MaybeUninit<Self::Lower>,
            ) -> wasmtime::Result<()> {
                Err(never_flat())
            }

            fn linear_lower_to_memory<T>(
                &self,
                cx: &mut LowerContext<'_, T>,
                _: InterfaceType,
                offset: usize,
            ) -> wasmtime::Result<()> {
                pack_all(cx, offset, std::slice::from_ref(self))
            }

            fn linear_store_list_to_memory<T>(
                cx: &mut LowerContext<'_, T>,
                _: InterfaceType,
                offset: usize,
                items: &[Self],
            ) -> wasmtime::Result<()> {
                pack_all(cx, offset, items)
            }
        }
    )*};
}

lower_packed!(CpuSample, DomainSample, Done, Grant, SignalSample);

/// Where `finished` stands in an `app-sample`: which field, and at which byte.
const FINISHED: (usize, usize) = (7, 72);

// SAFETY: as above.
unsafe impl Lower for AppSample {
    fn linear_lower_to_flat<T>(
        &self,
        _: &mut LowerContext<'_, T>,
        _: InterfaceType,
        _: &mut MaybeUninit<Self::Lower>,
    ) -> wasmtime::Result<()> {
        Err(never_flat())
    }

    fn linear_lower_to_memory<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        ty: InterfaceType,
        offset: usize,
    ) -> wasmtime::Result<()> {
        let InterfaceType::Record(record) = ty else { return Err(never_flat()) };
        let list = cx.types[record].fields[FINISHED.0].ty;
        // Its room first: asking the guest for it may move the memory.
        self.finished.linear_lower_to_memory(cx, list, offset + FINISHED.1)?;
        pack_all(cx, offset, std::slice::from_ref(self))
    }
}

impl Packed for CpuSample {
    fn pack(&self, row: &mut Row<'_>) {
        row.option(self.busy.map(u16::to_le_bytes));
        row.option(self.switches.map(u32::to_le_bytes));
        row.option(self.wakeups.map(u32::to_le_bytes));
        row.option(self.migrations.map(u32::to_le_bytes));
        row.option(self.runq_delay_ns.map(u64::to_le_bytes));
        row.option(self.idle_ns.map(u64::to_le_bytes));
    }
}

impl Packed for DomainSample {
    fn pack(&self, row: &mut Row<'_>) {
        row.option(self.opp.map(u16::to_le_bytes));
        row.option(self.util.map(u16::to_le_bytes));
        row.option(self.cap.map(u16::to_le_bytes));
        row.option(self.power_mw.map(u32::to_le_bytes));
        row.option(self.transitions.map(u32::to_le_bytes));
    }
}

impl Packed for Done {
    fn pack(&self, row: &mut Row<'_>) {
        row.put(self.subnet.to_le_bytes());
        row.put(self.seq.to_le_bytes());
        row.put(self.latency_ns.to_le_bytes());
        row.put(self.service_ns.to_le_bytes());
        row.put(self.confidence.to_le_bytes());
    }
}

impl Packed for SignalSample {
    fn pack(&self, row: &mut Row<'_>) {
        row.option(self.value.map(i64::to_le_bytes));
        row.put(self.age_ns.to_le_bytes());
    }
}

impl Packed for Grant {
    fn pack(&self, row: &mut Row<'_>) {
        row.put(self.domain.to_le_bytes());
        row.put(self.cores.to_le_bytes());
        row.put(self.weight.to_le_bytes());
        row.option(self.power_mw.map(u32::to_le_bytes));
        row.option(self.target.latency_ns.map(u64::to_le_bytes));
        row.option(self.target.top1.map(u16::to_le_bytes));
    }
}

impl Packed for AppSample {
    fn pack(&self, row: &mut Row<'_>) {
        row.option(self.subnet.map(u16::to_le_bytes));
        row.option(self.run_ns.map(u64::to_le_bytes));
        row.option(self.runq_delay_ns.map(u64::to_le_bytes));
        row.put(self.queue.to_le_bytes());
        row.option(self.in_flight_ns.map(u64::to_le_bytes));
        row.put(self.arrived.to_le_bytes());
        row.put(self.dropped.to_le_bytes());
        row.skip_list();
        row.put(self.finished_more.to_le_bytes());
    }
}

#[cfg(test)]
#[path = "lower_tests.rs"]
mod tests;
