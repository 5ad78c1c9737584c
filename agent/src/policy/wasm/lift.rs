//! A list of a guest's answer, lifted without the heap and without being handed about.
//!
//! wasmtime lifts a `list<T>` into a `Vec` (an allocation a call) or a `WasmList`, a range of the
//! guest's memory. The latter cannot be read here: a call runs the guest's
//! post-return function, which frees that range, before it returns. So the list is read in between,
//! while it is lifted, into a buffer of the calling thread; an array in the answer itself would be
//! copied at each of the half dozen returns on its way.
#![expect(unsafe_code, reason = "wasmtime's traits are unsafe to implement; every body here is safe")]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::thread::LocalKey;
use wasmtime::component::__internal::{CanonicalAbiInfo, InstanceType, InterfaceType, LiftContext};
use wasmtime::component::{ComponentType, Lift, WasmList};

/// An element whose lists are kept.
pub trait Kept: Lift + 'static {
    /// Of a longer list only the length is kept.
    const MOST: usize;
    /// The thread's buffer, which grows to the longest list once.
    fn buffer() -> &'static LocalKey<RefCell<Vec<Self>>>;
}

/// The `list<T>` that was lifted last on this thread.
#[derive(Debug)]
pub struct KeptList<T> {
    said: usize,
    items: PhantomData<T>,
}

impl<T: Kept> KeptList<T> {
    /// What `read` makes of the guest's list, complete.
    ///
    /// # Errors
    /// The length of the guest's list if it is not `expected`.
    pub fn of_length<R>(self, expected: usize, read: impl FnOnce(&[T]) -> R) -> Result<R, usize> {
        T::buffer().with_borrow(|items| match items.len() == expected && self.said == expected {
            true => Ok(read(items)),
            false => Err(self.said),
        })
    }

    fn keep(cx: &mut LiftContext<'_>, list: &WasmList<T>) -> wasmtime::Result<Self> {
        T::buffer().with_borrow_mut(|items| {
            items.clear();
            if list.len() <= T::MOST {
                T::linear_lift_into_from_memory(cx, list, items)?;
            }
            Ok(Self { said: list.len(), items: PhantomData })
        })
    }
}

// SAFETY: everything that describes the layout (`Lower`, `ABI`, `typecheck`) is that of `WasmList<T>`,
// wasmtime's own type for the same list.
unsafe impl<T: ComponentType> ComponentType for KeptList<T> {
    type Lower = <WasmList<T> as ComponentType>::Lower;
    const ABI: CanonicalAbiInfo = <WasmList<T> as ComponentType>::ABI;
    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
        WasmList::<T>::typecheck(ty, types)
    }
}

// SAFETY: the pointer and length are checked against the guest's memory by `WasmList<T>`, the elements
// by `T`; this only moves them.
unsafe impl<T: Kept> Lift for KeptList<T> {
    fn linear_lift_from_flat(
        cx: &mut LiftContext<'_>,
        ty: InterfaceType,
        src: &Self::Lower,
    ) -> wasmtime::Result<Self> {
        let list = WasmList::<T>::linear_lift_from_flat(cx, ty, src)?;
        Self::keep(cx, &list)
    }

    fn linear_lift_from_memory(
        cx: &mut LiftContext<'_>,
        ty: InterfaceType,
        bytes: &[u8],
    ) -> wasmtime::Result<Self> {
        let list = WasmList::<T>::linear_lift_from_memory(cx, ty, bytes)?;
        Self::keep(cx, &list)
    }
}
