//! A list of a guest's answer, lifted without the heap.
//!
//! wasmtime lifts a `list<T>` into a `Vec` (an allocation a call) or a `WasmList`, a range of the
//! guest's memory. The latter cannot be read here: a call runs the guest's
//! post-return function, which frees that range, before it returns. So the list is read in between,
//! while it is lifted, into an array.
#![expect(unsafe_code, reason = "wasmtime's traits are unsafe to implement; every body here is safe")]

use wasmtime::component::__internal::{CanonicalAbiInfo, InstanceType, InterfaceType, LiftContext};
use wasmtime::component::{ComponentType, Lift, WasmList};

/// A `list<T>` of at most `N` elements; of a longer one only the length is kept.
#[derive(Clone, Copy, Debug)]
pub struct ArrayList<T, const N: usize> {
    said: usize,
    items: [T; N],
}

impl<T, const N: usize> ArrayList<T, N> {
    /// The guest's list, complete.
    ///
    /// # Errors
    /// The length of the guest's list if it is not `expected`.
    pub fn of_length(&self, expected: usize) -> Result<&[T], usize> {
        if self.said == expected { self.items.get(..expected).ok_or(self.said) } else { Err(self.said) }
    }
}

/// Keeps what fits.
struct Fill<'a, T> {
    items: std::slice::IterMut<'a, T>,
}

impl<T> Extend<T> for Fill<'_, T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, more: I) {
        // Item first: `zip` would take a place before it knows that there is an item for it.
        for item in more {
            let Some(place) = self.items.next() else { return };
            *place = item;
        }
    }
}

impl<T: Lift + Copy + Default, const N: usize> ArrayList<T, N> {
    fn read(cx: &mut LiftContext<'_>, list: &WasmList<T>) -> wasmtime::Result<Self> {
        let mut read = Self { said: list.len(), items: [T::default(); N] };
        if read.said <= N {
            T::linear_lift_into_from_memory(cx, list, &mut Fill { items: read.items.iter_mut() })?;
        }
        Ok(read)
    }
}

// SAFETY: everything that describes the layout (`Lower`, `ABI`, `typecheck`) is that of `WasmList<T>`,
// wasmtime's own type for the same list.
unsafe impl<T: ComponentType, const N: usize> ComponentType for ArrayList<T, N> {
    type Lower = <WasmList<T> as ComponentType>::Lower;
    const ABI: CanonicalAbiInfo = <WasmList<T> as ComponentType>::ABI;
    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
        WasmList::<T>::typecheck(ty, types)
    }
}

// SAFETY: the pointer and length are checked against the guest's memory by `WasmList<T>`, the elements
// by `T`; this only moves them.
unsafe impl<T: Lift + Copy + Default, const N: usize> Lift for ArrayList<T, N> {
    fn linear_lift_from_flat(
        cx: &mut LiftContext<'_>,
        ty: InterfaceType,
        src: &Self::Lower,
    ) -> wasmtime::Result<Self> {
        let list = WasmList::<T>::linear_lift_from_flat(cx, ty, src)?;
        Self::read(cx, &list)
    }

    fn linear_lift_from_memory(
        cx: &mut LiftContext<'_>,
        ty: InterfaceType,
        bytes: &[u8],
    ) -> wasmtime::Result<Self> {
        let list = WasmList::<T>::linear_lift_from_memory(cx, ty, bytes)?;
        Self::read(cx, &list)
    }
}
