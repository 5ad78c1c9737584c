//! Any bytes, taken as the weights of a small network.
#![no_main]

use dnn_runner::engine::store::{Slot, SlotKind, Source, Store};
use safetensors::SafeTensors;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let slot = |name: &str, kind| Slot { name: name.into(), kind };
    let dense = SlotKind::Dense { kernel: (3, 3), inputs: 2, outputs: 17, groups: 1, linear: false };
    let elastic = SlotKind::Depthwise { kernel: 7, channels: 5, elastic: true };
    let slots = [slot("a", dense), slot("b", SlotKind::Vector(17)), slot("c", elastic), slot("c.to5", SlotKind::Transform(25))];
    if let Ok(tensors) = SafeTensors::deserialize(bytes) {
        let _ = Store::new(&slots, &Source::File(tensors));
    }
});
