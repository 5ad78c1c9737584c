//! The super-network's weights, packed once for the kernels and shared by all its sub-networks.
//!
//! Responsible for: reading tensors (safetensors, or seeded random numbers for a network whose speed
//! alone matters), refusing broken ones, packing. A sub-network uses a prefix of a slot's inputs and
//! outputs, and of an elastic depthwise slot one of its kernels.
//!
//! In a file a convolution is (kernel row, kernel column, input, output), grouped ones with the inputs of
//! one group; a depthwise one (kernel row, kernel column, channel); a linear layer over a map
//! (row * column * input, output). An elastic depthwise slot of kernel 7 or 5 derives the smaller kernels
//! as Once-for-All does (arXiv 1908.09791, section 3.3): the middle of the next larger one, flattened,
//! times a matrix `NAME.to5` (25 x 25) or `NAME.to3` (9 x 9); without the tensor, the middle itself.

use super::graph::{Graph, Op};
use super::memory::Aligned;
use crate::kernel::{padded, panel};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One tensor of the super-network.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The tensor's.
    pub name: String,
    /// What it is.
    pub kind: SlotKind,
}

/// What a slot is, at its largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// A convolution.
    Dense {
        /// Rows times columns.
        kernel: (usize, usize),
        /// Of one group.
        inputs: usize,
        /// Of all groups.
        outputs: usize,
        /// Of channels.
        groups: usize,
        /// Whether the tensor has two dimensions.
        linear: bool,
    },
    /// A depthwise convolution.
    Depthwise {
        /// Side of the largest kernel.
        kernel: usize,
        /// Channels.
        channels: usize,
        /// Whether smaller kernels are derived.
        elastic: bool,
    },
    /// Scales or biases.
    Vector(usize),
    /// A matrix of [`SlotKind::Depthwise`]'s derivation; may be missing.
    Transform(usize),
}

impl SlotKind {
    /// Numbers of the super-network in it; a derivation's matrix is none.
    pub fn weights(self) -> usize {
        if matches!(self, Self::Transform(_)) {
            return 0;
        }
        self.shape().iter().fold(1, |n: usize, side| n.saturating_mul(*side))
    }

    pub(crate) fn shape(self) -> Vec<usize> {
        match self {
            Self::Dense { kernel, inputs, outputs, linear: true, .. } => {
                vec![kernel.0 * kernel.1 * inputs, outputs]
            }
            Self::Dense { kernel, inputs, outputs, .. } => vec![kernel.0, kernel.1, inputs, outputs],
            Self::Depthwise { kernel, channels, .. } => vec![kernel, kernel, channels],
            Self::Vector(n) => vec![n],
            Self::Transform(n) => vec![n, n],
        }
    }
}

/// Weights of a convolution, as [`crate::kernel`] wants them: `[group][panel][tap][input][lane]`.
#[derive(Debug)]
pub(crate) struct Dense {
    pub data: Aligned,
    pub kernel: (usize, usize),
    pub inputs: usize,
    pub outputs: usize,
    pub groups: usize,
}

impl Dense {
    /// Outputs of a panel.
    pub const fn lanes(&self) -> usize {
        panel(self.outputs / self.groups)
    }
    /// Numbers between two taps.
    pub const fn tap(&self) -> usize {
        self.inputs * self.lanes()
    }
    /// Numbers between two panels.
    pub const fn panel(&self) -> usize {
        self.kernel.0 * self.kernel.1 * self.tap()
    }
    /// Numbers between two groups.
    pub const fn group(&self) -> usize {
        (self.outputs / self.groups).div_ceil(self.lanes()) * self.panel()
    }

    /// The weight of a group's output `o` for input `i` at `tap`.
    pub fn at(&self, group: usize, o: usize, tap: usize, i: usize) -> f32 {
        let lanes = self.lanes();
        let panel = group * self.group() + o / lanes * self.panel();
        self.data[panel + tap * self.tap() + i * lanes + o % lanes]
    }

    fn pack(kernel: (usize, usize), inputs: usize, outputs: usize, groups: usize, from: &[f32]) -> Self {
        let mut packed = Self { data: Aligned::default(), kernel, inputs, outputs, groups };
        let (mut data, lanes) = (Aligned::new(packed.group() * groups), packed.lanes());
        for (row, from) in from.chunks_exact(outputs).enumerate() {
            for (o, w) in from.iter().enumerate() {
                let (group, o) = (o / (outputs / groups), o % (outputs / groups));
                data[group * packed.group() + o / lanes * packed.panel() + row * lanes + o % lanes] = *w;
            }
        }
        packed.data = data;
        packed
    }
}

/// Scales or biases.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub data: Arc<Aligned>,
    len: usize,
}

impl Vector {
    fn new(values: &[f32]) -> Self {
        Self { data: Arc::new(Aligned::from(values)), len: values.len() }
    }
    pub const fn len(&self) -> usize {
        self.len
    }
}

/// One kernel size of a depthwise convolution: `[tap][channel, padded]`.
#[derive(Debug)]
pub(crate) struct Depthwise {
    pub data: Aligned,
    pub channels: usize,
}

/// Where the values come from.
#[derive(Debug)]
pub enum Source<'a> {
    /// A file.
    File(SafeTensors<'a>),
    /// Random numbers: for measuring time alone.
    Seed(u64),
}

/// Why a slot cannot be filled.
#[derive(Debug, thiserror::Error)]
#[error("tensor {tensor:?}: {rule}")]
pub struct SlotError {
    /// Which.
    pub tensor: String,
    /// What is wrong, and the rule.
    pub rule: String,
}

/// All weights.
#[derive(Debug, Default)]
pub struct Store {
    pub(crate) dense: BTreeMap<String, Arc<Dense>>,
    /// By name and side of the kernel.
    pub(crate) depthwise: BTreeMap<(String, usize), Arc<Depthwise>>,
    pub(crate) vectors: BTreeMap<String, Vector>,
}

impl Store {
    /// Fills `slots`; a file with other tensors is refused.
    pub fn new(slots: &[Slot], source: &Source<'_>) -> Result<Self, SlotError> {
        let mut store = Self::default();
        let mut found = 0;
        for slot in slots {
            if matches!(slot.kind, SlotKind::Transform(_)) {
                continue;
            }
            let values = source.values(slot)?;
            found += 1;
            match slot.kind {
                SlotKind::Dense { kernel, inputs, outputs, groups, .. } => {
                    let packed = Dense::pack(kernel, inputs, outputs, groups, &values);
                    store.dense.insert(slot.name.clone(), Arc::new(packed));
                }
                SlotKind::Vector(_) => {
                    store.vectors.insert(slot.name.clone(), Vector::new(&values));
                }
                SlotKind::Depthwise { kernel, channels, elastic } => {
                    let mut now = (kernel, values);
                    loop {
                        let packed = Arc::new(Depthwise::pack(channels, &now.1));
                        store.depthwise.insert((slot.name.clone(), now.0), packed);
                        if !elastic || now.0 == 3 {
                            break;
                        }
                        let to = now.0 - 2;
                        let name = format!("{}.to{to}", slot.name);
                        let matrix = slots.iter().find(|s| s.name == name);
                        let matrix = match matrix {
                            Some(m) if source.has(m) => {
                                found += 1;
                                Some(source.values(m)?)
                            }
                            _ => None,
                        };
                        now = (to, smaller(now.0, channels, &now.1, matrix.as_deref()));
                    }
                }
                SlotKind::Transform(_) => unreachable!("skipped above"),
            }
        }
        if let Source::File(file) = source
            && file.len() != found
        {
            let extra = file.names().into_iter().find(|n| slots.iter().all(|s| s.name != **n));
            let tensor = extra.map_or_else(String::new, |n| (*n).to_string());
            let rule = format!("the file has {} tensors; the manifest's layers make {found}", file.len());
            return Err(SlotError { tensor, rule });
        }
        Ok(store)
    }

    /// Only what `graph` uses, packed as its own network: to compare a view with.
    pub fn own(&self, graph: &Graph) -> Self {
        let mut own = Self { vectors: self.vectors.clone(), ..Self::default() };
        for node in &graph.nodes {
            match &node.op {
                Op::Conv { conv, .. } => {
                    let (inputs, n) =
                        (graph.shape(node.input).channels / conv.groups, conv.outputs / conv.groups);
                    let from = &self.dense[&conv.slot];
                    let taps = from.kernel.0 * from.kernel.1;
                    let mut flat = Vec::with_capacity(taps * inputs * conv.outputs);
                    for (tap, i) in (0..taps).flat_map(|t| (0..inputs).map(move |i| (t, i))) {
                        flat.extend((0..conv.outputs).map(|o| from.at(o / n, o % n, tap, i)));
                    }
                    let packed = Dense::pack(from.kernel, inputs, conv.outputs, conv.groups, &flat);
                    own.dense.insert(conv.slot.clone(), Arc::new(packed));
                }
                Op::Depthwise { conv, .. } => {
                    let key = (conv.slot.clone(), conv.kernel.0);
                    let rows = self.depthwise[&key].data.chunks_exact(padded(self.depthwise[&key].channels));
                    let flat: Vec<f32> = rows.flat_map(|row| row[..conv.outputs].to_vec()).collect();
                    own.depthwise.insert(key, Arc::new(Depthwise::pack(conv.outputs, &flat)));
                }
                _ => {}
            }
        }
        own
    }

    /// Bytes of all packed weights.
    pub fn bytes(&self) -> usize {
        let dense = self.dense.values().map(|d| d.data.len());
        let depthwise = self.depthwise.values().map(|d| d.data.len());
        let vectors = self.vectors.values().map(|v| v.data.len());
        dense.chain(depthwise).chain(vectors).sum::<usize>() * size_of::<f32>()
    }
}

impl Depthwise {
    fn pack(channels: usize, from: &[f32]) -> Self {
        let mut data = Aligned::new(from.len() / channels * padded(channels));
        for (to, from) in data.chunks_exact_mut(padded(channels)).zip(from.chunks_exact(channels)) {
            to[..channels].copy_from_slice(from);
        }
        Self { data, channels }
    }
}

/// The next smaller kernel: the middle, times the matrix.
fn smaller(kernel: usize, channels: usize, from: &[f32], matrix: Option<&[f32]>) -> Vec<f32> {
    let to = kernel - 2;
    let middle = |tap: usize, c: usize| from[((tap / to + 1) * kernel + tap % to + 1) * channels + c];
    let mut out = vec![0.0; to * to * channels];
    for (tap, out) in out.chunks_exact_mut(channels).enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            *out = match matrix {
                // Row vector times matrix transposed, as torch's linear layer has it.
                Some(m) => (0..to * to).map(|j| middle(j, c) * m[tap * to * to + j]).sum(),
                None => middle(tap, c),
            };
        }
    }
    out
}

impl Source<'_> {
    fn has(&self, slot: &Slot) -> bool {
        match self {
            Self::File(file) => file.tensor(&slot.name).is_ok(),
            Self::Seed(_) => false,
        }
    }

    /// The values of a slot, all finite.
    pub(crate) fn values(&self, slot: &Slot) -> Result<Vec<f32>, SlotError> {
        let refuse = |rule: String| SlotError { tensor: slot.name.clone(), rule };
        let shape = slot.kind.shape();
        let file = match self {
            Self::File(file) => file,
            Self::Seed(seed) => return Ok(random(*seed, slot)),
        };
        let view =
            file.tensor(&slot.name).map_err(|e| refuse(format!("{e}; the manifest's layers need it")))?;
        if view.dtype() != Dtype::F32 {
            return Err(refuse(format!("type {:?}; it must be F32", view.dtype())));
        }
        if view.shape() != shape {
            return Err(refuse(format!("shape {:?}; the manifest's layers make {shape:?}", view.shape())));
        }
        let (words, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(refuse(format!("value {i} is {}; every weight is finite", values[i]))),
            None => Ok(values),
        }
    }
}

/// Uniform numbers whose variance keeps activations in bounds (He et al., arXiv 1502.01852); scales of 1 and small biases.
/// They depend on the seed and the slot's name alone.
fn random(seed: u64, slot: &Slot) -> Vec<f32> {
    // FNV-1a, so that a slot's values do not depend on the others.
    let hash = slot
        .name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut rng = fastrand::Rng::with_seed(seed ^ hash);
    let count = slot.kind.shape().iter().product();
    let mut uniform = |half: f32, middle: f32| -> Vec<f32> {
        (0..count).map(|_| middle + half * (2.0 * rng.f32() - 1.0)).collect()
    };
    #[expect(clippy::cast_precision_loss, reason = "sizes of kernels")]
    match slot.kind {
        SlotKind::Dense { kernel, inputs, .. } => {
            uniform((6.0 / (kernel.0 * kernel.1 * inputs) as f32).sqrt(), 0.0)
        }
        SlotKind::Depthwise { kernel, .. } => uniform((6.0 / (kernel * kernel) as f32).sqrt(), 0.0),
        SlotKind::Vector(_) if slot.name.ends_with("scale") => uniform(0.1, 1.0),
        SlotKind::Vector(_) | SlotKind::Transform(_) => uniform(0.1, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dense_slot_is_packed_in_panels() {
        // 1 x 2 kernel, 3 inputs, 17 outputs: value = its place in the tensor.
        let from: Vec<f32> = (0..2 * 3 * 17).map(|i| f32::from(u8::try_from(i).unwrap())).collect();
        let packed = Dense::pack((1, 2), 3, 17, 1, &from);
        let at = |o: usize, tap: usize, i: usize| {
            packed.data[o / 16 * packed.panel() + tap * packed.tap() + i * 16 + o % 16]
        };
        for (o, tap, i) in [(0, 0, 0), (16, 0, 0), (15, 1, 2), (16, 1, 2), (3, 0, 1)] {
            assert_eq!(at(o, tap, i), from[(tap * 3 + i) * 17 + o], "{o} {tap} {i}");
        }
        assert_eq!(at(17, 1, 1), 0.0, "lanes behind the last output");
    }

    #[test]
    fn a_smaller_kernel_is_the_middle_times_the_matrix() {
        // One channel; the middle of 0..25 as 5 x 5 is 6 7 8 11 12 13 16 17 18.
        let from: Vec<f32> = (0..25).map(|i| f32::from(u8::try_from(i).unwrap())).collect();
        let middle = [6.0, 7.0, 8.0, 11.0, 12.0, 13.0, 16.0, 17.0, 18.0];
        assert_eq!(smaller(5, 1, &from, None), middle);
        let mut matrix = [0.0; 81];
        (0..9).for_each(|i| matrix[i * 9 + (i + 1) % 9] = 2.0);
        let expected: Vec<f32> = (0..9).map(|i| 2.0 * middle[(i + 1) % 9]).collect();
        assert_eq!(smaller(5, 1, &from, Some(&matrix)), expected);
    }
}
