//! The samples of a snapshot, written into a guest's memory a list at a time.
//!
//! wasmtime's derived `Lower` looks the guest's memory and the field's type up again for every field and
//! every discriminant: hundreds of times for one snapshot, most of what a call costs. Here a record
//! writes its fields in order into a slice of that memory, with the padding that the canonical ABI
//! prescribes. A test holds every record against the derived code.
#![expect(unsafe_code, reason = "wasmtime's traits are unsafe to implement; every body here is safe")]

use super::wire::{AppSample, CpuSample, DomainSample, Done, Grant, OtherSample, SignalSample, View};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use wasmtime::ValRaw;
use wasmtime::component::__internal::{CanonicalAbiInfo, InstanceType, InterfaceType, LowerContext};
use wasmtime::component::{ComponentType, Lower, WasmList};

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

    /// A record in a record: begins aligned and ends padded to its alignment.
    #[inline]
    fn record<R: Packed>(&mut self, record: &R, list: Place) {
        let start = self.at.next_multiple_of(R::ALIGN32 as usize);
        self.at = start;
        record.pack(self, list);
        self.at = start + R::SIZE32;
    }
}

/// A list in the guest's memory.
#[derive(Clone, Copy, Default)]
pub struct Place {
    ptr: u32,
    len: u32,
}

/// A record that writes itself.
pub trait Packed: ComponentType {
    /// Whether it has a list; it has one at most.
    const HAS_LIST: bool = false;

    /// Lowers its list.
    fn list<T>(&self, _: &mut LowerContext<'_, T>) -> wasmtime::Result<Place> {
        Ok(Place::default())
    }

    /// Its fields, in the order of the WIT.
    fn pack(&self, row: &mut Row<'_>, list: Place);
}

/// Writes a record to its place. Its list comes first: asking the guest for room may move the memory.
#[inline]
fn store<R: Packed, T>(cx: &mut LowerContext<'_, T>, offset: usize, record: &R) -> wasmtime::Result<()> {
    let list = record.list(cx)?;
    let place = cx.as_slice_mut().get_mut(offset..).and_then(|rest| rest.get_mut(..R::SIZE32));
    record.pack(&mut Row { bytes: place.ok_or_else(outside)?, at: 0 }, list);
    Ok(())
}

fn outside() -> wasmtime::Error {
    wasmtime::Error::msg("a sample is lowered outside the guest's memory")
}

/// Our samples `O` as a list of the contract's records `R`, each converted as it is written.
#[derive(Debug)]
pub struct List<'a, O, R> {
    items: &'a [O],
    records: PhantomData<R>,
}

impl<O, R> Clone for List<'_, O, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O, R> Copy for List<'_, O, R> {}

impl<'a, O, R: Packed + From<&'a O>> List<'a, O, R> {
    pub fn new(items: &'a [O]) -> Self {
        Self { items, records: PhantomData }
    }

    fn lower<T>(&self, cx: &mut LowerContext<'_, T>) -> wasmtime::Result<Place> {
        if self.items.is_empty() {
            // Needs no room, so the guest is not called. Its place is never looked at.
            return Ok(Place { ptr: R::ALIGN32, len: 0 });
        }
        let size = R::SIZE32.saturating_mul(self.items.len());
        let start = cx.realloc(0, 0, R::ALIGN32, size)?;
        if R::HAS_LIST {
            for (nth, item) in self.items.iter().enumerate() {
                store(cx, start + nth * R::SIZE32, &R::from(item))?;
            }
        } else {
            let room = cx.as_slice_mut().get_mut(start..).and_then(|rest| rest.get_mut(..size));
            for (bytes, item) in room.ok_or_else(outside)?.chunks_exact_mut(R::SIZE32).zip(self.items) {
                R::from(item).pack(&mut Row { bytes, at: 0 }, Place::default());
            }
        }
        Ok(Place { ptr: u32::try_from(start)?, len: u32::try_from(self.items.len())? })
    }
}

// SAFETY: everything that describes the layout is that of `WasmList<R>`, wasmtime's own type for the same
// list.
unsafe impl<O: Send + Sync, R: ComponentType> ComponentType for List<'_, O, R> {
    type Lower = <WasmList<R> as ComponentType>::Lower;
    const ABI: CanonicalAbiInfo = <WasmList<R> as ComponentType>::ABI;
    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
        WasmList::<R>::typecheck(ty, types)
    }
}

// SAFETY: `linear_lower_to_flat` initialises both values; the other writes through a checked slice.
unsafe impl<'a, O: Send + Sync, R: Packed + From<&'a O>> Lower for List<'a, O, R> {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        _: InterfaceType,
        dst: &mut MaybeUninit<Self::Lower>,
    ) -> wasmtime::Result<()> {
        let Place { ptr, len } = self.lower(cx)?;
        dst.write([ValRaw::i64(ptr.into()), ValRaw::i64(len.into())]);
        Ok(())
    }

    fn linear_lower_to_memory<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        _: InterfaceType,
        offset: usize,
    ) -> wasmtime::Result<()> {
        let Place { ptr, len } = self.lower(cx)?;
        *cx.get(offset) = ptr.to_le_bytes();
        *cx.get(offset + 4) = len.to_le_bytes();
        Ok(())
    }
}

/// A tuner's view has more fields than arguments could carry, so it is lowered to memory only.
// SAFETY: `linear_lower_to_flat` initialises nothing and says so by an error; the other writes through a
// checked slice of the guest's memory, which holds whatever the guest likes anyway.
unsafe impl Lower for View<'_> {
    fn linear_lower_to_flat<T>(
        &self,
        _: &mut LowerContext<'_, T>,
        _: InterfaceType,
        _: &mut MaybeUninit<Self::Lower>,
    ) -> wasmtime::Result<()> {
        Err(wasmtime::Error::msg("a view is passed in memory, not in arguments"))
    }

    fn linear_lower_to_memory<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        _: InterfaceType,
        offset: usize,
    ) -> wasmtime::Result<()> {
        store(cx, offset, self)
    }
}

impl Packed for CpuSample {
    fn pack(&self, row: &mut Row<'_>, _: Place) {
        row.option(self.busy.map(u16::to_le_bytes));
        row.option(self.switches.map(u32::to_le_bytes));
        row.option(self.wakeups.map(u32::to_le_bytes));
        row.option(self.migrations.map(u32::to_le_bytes));
        row.option(self.runq_delay_ns.map(u64::to_le_bytes));
        row.option(self.idle_ns.map(u64::to_le_bytes));
    }
}

impl Packed for DomainSample {
    fn pack(&self, row: &mut Row<'_>, _: Place) {
        row.option(self.opp.map(u16::to_le_bytes));
        row.option(self.util.map(u16::to_le_bytes));
        row.option(self.cap.map(u16::to_le_bytes));
        row.option(self.power_mw.map(u32::to_le_bytes));
        row.option(self.transitions.map(u32::to_le_bytes));
    }
}

impl Packed for Done {
    fn pack(&self, row: &mut Row<'_>, _: Place) {
        row.put(self.subnet.to_le_bytes());
        row.put(self.seq.to_le_bytes());
        row.put(self.latency_ns.to_le_bytes());
        row.put(self.service_ns.to_le_bytes());
        row.put(self.confidence.to_le_bytes());
    }
}

impl Packed for SignalSample {
    fn pack(&self, row: &mut Row<'_>, _: Place) {
        row.option(self.value.map(i64::to_le_bytes));
        row.put(self.age_ns.to_le_bytes());
    }
}

impl Packed for Grant {
    fn pack(&self, row: &mut Row<'_>, _: Place) {
        row.put(self.domain.to_le_bytes());
        row.put(self.cores.to_le_bytes());
        row.put(self.weight.to_le_bytes());
        row.option(self.power_mw.map(u32::to_le_bytes));
        row.option(self.target.latency_ns.map(u64::to_le_bytes));
        row.option(self.target.top1.map(u16::to_le_bytes));
        row.option(self.target.power_mw.map(u32::to_le_bytes));
        row.put([self.target.objective as u8]);
    }
}

impl Packed for OtherSample {
    fn pack(&self, row: &mut Row<'_>, _: Place) {
        row.option(self.run_ns.map(u64::to_le_bytes));
        row.option(self.runq_delay_ns.map(u64::to_le_bytes));
    }
}

impl Packed for AppSample<'_> {
    const HAS_LIST: bool = true;

    fn list<T>(&self, cx: &mut LowerContext<'_, T>) -> wasmtime::Result<Place> {
        self.finished.lower(cx)
    }

    fn pack(&self, row: &mut Row<'_>, finished: Place) {
        row.option(self.subnet.map(u16::to_le_bytes));
        row.option(self.run_ns.map(u64::to_le_bytes));
        row.option(self.runq_delay_ns.map(u64::to_le_bytes));
        row.put(self.queue.to_le_bytes());
        row.option(self.in_flight_ns.map(u64::to_le_bytes));
        row.put(self.arrived.to_le_bytes());
        row.put(self.dropped.to_le_bytes());
        row.put(finished.ptr.to_le_bytes());
        row.put(finished.len.to_le_bytes());
        row.put(self.finished_more.to_le_bytes());
    }
}

impl Packed for View<'_> {
    const HAS_LIST: bool = true;

    fn list<T>(&self, cx: &mut LowerContext<'_, T>) -> wasmtime::Result<Place> {
        self.app.list(cx)
    }

    fn pack(&self, row: &mut Row<'_>, finished: Place) {
        row.put(self.tick.to_le_bytes());
        row.put(self.at_ns.to_le_bytes());
        row.put(self.window_ns.to_le_bytes());
        row.record(&self.app, finished);
        row.record(&self.domain, Place::default());
        row.record(&self.other, Place::default());
        row.record(&self.grant, Place::default());
    }
}

#[cfg(test)]
#[path = "lower_tests.rs"]
mod tests;
