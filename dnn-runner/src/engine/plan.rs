//! A sub-network made runnable: every layer with its slice of the weights, its vectors, its places in
//! the arena.
//!
//! Responsible for: refusing a graph that does not fit the weights, and for places that never overlap
//! while both are needed; [`super::exec`] trusts both. A plan borrows nothing: it shares the store's
//! packed weights and vectors.

use super::graph::{Activation, Graph, GraphError, Norm, Op, Shape, Value};
use super::memory::Aligned;
use super::store::{Dense, Depthwise, Store};
use crate::kernel::gemm::TAPS_MAX;
use crate::kernel::padded;
use std::ops::Range;
use std::sync::Arc;

/// Inputs of a tap at most: as many zeros stand ready for what lies outside of a map.
pub(crate) const DEPTH_MAX: usize = 8192;

/// Numbers of an arena at most: a gibibyte of them.
const ARENA_MAX: usize = 1 << 28;

/// Where a map lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of pixel (0, 0) in the arena.
    pub at: usize,
    /// Rows, columns, channels.
    pub shape: Shape,
    /// Numbers between two pixels, and between two rows.
    pub pixel: usize,
    /// See `pixel`.
    pub row: usize,
}

/// A dense or grouped convolution.
#[derive(Debug)]
pub(crate) struct ProductStep {
    pub dense: Arc<Dense>,
    pub input: Place,
    pub output: Place,
    /// As [`crate::kernel::gemm::Product`] has them.
    pub taps: (usize, usize),
    pub tap: usize,
    pub depth: usize,
    pub bordered: bool,
    pub before: (usize, usize),
    pub stride: usize,
    pub groups: usize,
    pub epilogue: Epilogue,
    /// Pixel (0, 0) of what is added.
    pub residual: Option<usize>,
}

/// What a layer's sums are multiplied by, what is added, and what follows. Of the vectors a prefix is used.
#[derive(Clone, Debug)]
pub(crate) struct Epilogue {
    pub scale: Arc<Aligned>,
    pub bias: Arc<Aligned>,
    pub activation: Activation,
}

#[derive(Debug)]
pub(crate) struct DepthwiseStep {
    pub weights: Arc<Depthwise>,
    pub input: Place,
    pub output: Place,
    pub kernel: usize,
    pub before: (usize, usize),
    pub stride: usize,
    pub epilogue: Epilogue,
}

/// One layer, ready.
#[derive(Debug)]
pub(crate) enum Step {
    Product(ProductStep),
    Depthwise(DepthwiseStep),
    MaxPool { input: Place, output: Place, cell: usize },
    Mean { input: Place, output: Place },
    Scale { input: Place, by: Place, output: Place },
    Add { a: Place, b: Place, output: Place, activation: Activation },
}

/// One sub-network, ready.
#[derive(Debug)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// For layers without a scale or a bias.
    constants: Constants,
    pub(crate) image: Place,
    /// The image with its border.
    pub(crate) image_memory: Range<usize>,
    pub(crate) output: Place,
    /// Numbers of the arena.
    pub(crate) arena: usize,
}

impl Plan {
    /// Layers it runs.
    pub fn layers(&self) -> usize {
        self.steps.len()
    }

    /// Rows, columns and channels of the image it takes.
    pub fn image(&self) -> Shape {
        self.image.shape
    }

    /// Bytes of its own: constants and steps, without the shared weights.
    pub fn bytes(&self) -> usize {
        let constants = self.constants.ones.len() + self.constants.zeros.len();
        constants * size_of::<f32>() + self.steps.len() * size_of::<Step>()
    }

    /// Numbers of the arena it needs.
    pub fn arena(&self) -> usize {
        self.arena
    }

    /// Prepares `graph` on the weights of `store`.
    pub fn new(graph: &Graph, store: &Store) -> Result<Self, GraphError> {
        let mut plan = Planner::new(graph)?;
        let mut steps = Vec::with_capacity(graph.nodes.len());
        let constants = Constants::new(graph);
        for layer in 0..graph.nodes.len() {
            let step = plan.step(layer, store, &constants);
            steps.push(step.map_err(|rule| GraphError { layer, rule })?);
        }
        let output = plan.places[graph.output().0].expect("the last layer was placed");
        if plan.arena > ARENA_MAX {
            let rule = format!("its maps take {} numbers; at most {ARENA_MAX}", plan.arena);
            return Err(GraphError { layer: graph.nodes.len(), rule });
        }
        if output.shape.pixels() != 1 {
            let rule = format!("the last map is {:?}; logits are one pixel", output.shape);
            return Err(GraphError { layer: graph.nodes.len(), rule });
        }
        Ok(Self {
            steps,
            constants,
            image: plan.places[0].expect("the image was placed first"),
            image_memory: plan.image_memory,
            output,
            arena: plan.arena,
        })
    }
}

/// A map's memory while it is needed.
struct Live {
    memory: Range<usize>,
    until: usize,
}

struct Planner<'g> {
    graph: &'g Graph,
    /// Of each map, once placed.
    places: Vec<Option<Place>>,
    /// The last layer that needs each map.
    last: Vec<usize>,
    live: Vec<Live>,
    arena: usize,
    image_memory: Range<usize>,
}

impl<'g> Planner<'g> {
    fn new(graph: &'g Graph) -> Result<Self, GraphError> {
        let mut last = vec![0; graph.nodes.len() + 1];
        for (layer, node) in graph.nodes.iter().enumerate() {
            let second = match &node.op {
                Op::Conv { conv, .. } => conv.add,
                Op::Scale(by) => Some(*by),
                Op::Add(y, _) => Some(*y),
                _ => None,
            };
            for Value(v) in [Some(node.input), second].into_iter().flatten() {
                if v > layer {
                    return Err(GraphError { layer, rule: "uses a map that a later layer makes".into() });
                }
                last[v] = layer;
            }
        }
        *last.last_mut().expect("the image is there") = usize::MAX;
        let mut planner = Self {
            graph,
            places: vec![None; graph.nodes.len() + 1],
            last,
            live: Vec::new(),
            arena: 0,
            image_memory: 0..0,
        };
        planner.place_image();
        Ok(planner)
    }

    /// The lowest memory that is free from layer `layer` on.
    fn allocate(&mut self, len: usize, layer: usize, until: usize) -> Range<usize> {
        self.live.retain(|l| l.until >= layer);
        self.live.sort_by_key(|l| l.memory.start);
        let mut at = 0;
        for l in &self.live {
            if l.memory.start >= at + len {
                break;
            }
            at = at.max(l.memory.end);
        }
        let memory = at..at + padded(len);
        self.arena = self.arena.max(memory.end);
        self.live.push(Live { memory: memory.clone(), until });
        memory
    }

    /// The image keeps its channels unpadded and has zeros around it, as many as its layers want, so
    /// that a kernel row's inputs lie together.
    fn place_image(&mut self) {
        let shape = self.graph.input;
        let (mut before, mut behind) = ((0, 0), (0, 0));
        for node in self.graph.nodes.iter().filter(|n| n.input == Value(0)) {
            let Op::Conv { before: (top, left), conv } = &node.op else { continue };
            before = (before.0.max(*top), before.1.max(*left));
            let end = |out: usize, kernel: usize, first: usize, size: usize| {
                ((out - 1) * conv.stride + kernel).saturating_sub(first + size)
            };
            behind.0 = behind.0.max(end(node.shape.height, conv.kernel.0, *top, shape.height));
            behind.1 = behind.1.max(end(node.shape.width, conv.kernel.1, *left, shape.width));
        }
        let row = (before.1 + shape.width + behind.1) * shape.channels;
        let memory = self.allocate((before.0 + shape.height + behind.0) * row, 0, self.last[0]);
        let at = memory.start + before.0 * row + before.1 * shape.channels;
        self.image_memory = memory;
        self.places[0] = Some(Place { at, shape, pixel: shape.channels, row });
    }

    fn place(&mut self, layer: usize) -> Place {
        let shape = self.graph.nodes[layer].shape;
        let pixel = padded(shape.channels);
        let memory = self.allocate(shape.pixels() * pixel, layer, self.last[layer + 1]);
        let place = Place { at: memory.start, shape, pixel, row: shape.width * pixel };
        self.places[layer + 1] = Some(place);
        place
    }

    /// In the place of a map that nobody needs any more.
    fn take_over(&mut self, layer: usize, from: Value) -> Place {
        let place = self.of(from);
        let until = self.last[layer + 1];
        let live = self.live.iter_mut().find(|l| l.memory.start == place.at);
        live.expect("it is needed now").until = until;
        self.places[layer + 1] = Some(place);
        place
    }

    fn of(&self, value: Value) -> Place {
        self.places[value.0].expect("earlier layers were placed")
    }

    fn step(&mut self, layer: usize, store: &Store, constants: &Constants) -> Result<Step, String> {
        let node = &self.graph.nodes[layer];
        let input = self.of(node.input);
        Ok(match &node.op {
            Op::Conv { before, conv } => {
                let dense = store.dense.get(&conv.slot).ok_or(format!("no slot {:?}", conv.slot))?;
                let inputs = input.shape.channels / conv.groups;
                let fits = dense.kernel == conv.kernel
                    && dense.groups >= conv.groups
                    && inputs <= dense.inputs
                    && conv.outputs / conv.groups <= dense.outputs / dense.groups;
                if !fits {
                    return Err(format!(
                        "{:?}: {} x {} kernel, {inputs} inputs and {} outputs in {} groups; the slot has {} x {}, \
                         {}, {}, {}",
                        conv.slot,
                        conv.kernel.0,
                        conv.kernel.1,
                        conv.outputs,
                        conv.groups,
                        dense.kernel.0,
                        dense.kernel.1,
                        dense.inputs,
                        dense.outputs,
                        dense.groups
                    ));
                }
                if conv.groups > 1 && !(conv.outputs / conv.groups).is_multiple_of(crate::kernel::LANES) {
                    return Err(format!("{:?}: a group's outputs are a multiple of 16", conv.slot));
                }
                let bordered = node.input == Value(0);
                let merged = bordered && conv.groups == 1 && dense.inputs == inputs;
                let (taps, tap, depth) = if merged {
                    ((conv.kernel.0, 1), conv.kernel.1 * dense.tap(), conv.kernel.1 * inputs)
                } else {
                    (conv.kernel, dense.tap(), inputs)
                };
                if taps.0 * taps.1 > TAPS_MAX || depth > DEPTH_MAX {
                    return Err(format!("{:?}: at most {TAPS_MAX} taps of {DEPTH_MAX} inputs", conv.slot));
                }
                let epilogue = constants.epilogue(store, &conv.norm, conv.outputs, conv.activation)?;
                let residual = conv.add.map(|a| self.of(a).at);
                let output = self.place(layer);
                Step::Product(ProductStep {
                    dense: Arc::clone(dense),
                    input,
                    output,
                    taps,
                    tap,
                    depth,
                    bordered,
                    before: *before,
                    stride: conv.stride,
                    groups: conv.groups,
                    epilogue,
                    residual,
                })
            }
            Op::Depthwise { before, conv } => {
                let key = (conv.slot.clone(), conv.kernel.0);
                let weights = store.depthwise.get(&key);
                let weights = weights.ok_or(format!("no depthwise slot {:?} of kernel {}", key.0, key.1))?;
                if conv.outputs > weights.channels || node.input == Value(0) {
                    return Err(format!(
                        "{:?}: {} channels; the slot has {}",
                        conv.slot, conv.outputs, weights.channels
                    ));
                }
                let epilogue = constants.epilogue(store, &conv.norm, conv.outputs, conv.activation)?;
                let output = self.place(layer);
                Step::Depthwise(DepthwiseStep {
                    weights: Arc::clone(weights),
                    input,
                    output,
                    kernel: conv.kernel.0,
                    before: *before,
                    stride: conv.stride,
                    epilogue,
                })
            }
            Op::MaxPool(cell) => Step::MaxPool { input, output: self.place(layer), cell: *cell },
            Op::Mean => Step::Mean { input, output: self.place(layer) },
            Op::Scale(by) => {
                let by = self.of(*by);
                let last = self.last[node.input.0] == layer;
                let output = if last { self.take_over(layer, node.input) } else { self.place(layer) };
                Step::Scale { input, by, output }
            }
            Op::Add(y, activation) => {
                let b = self.of(*y);
                Step::Add { a: input, b, output: self.place(layer), activation: *activation }
            }
        })
    }
}

/// A one and a zero for every output of the layers that have no scale or no bias.
#[derive(Clone, Debug)]
struct Constants {
    ones: Arc<Aligned>,
    zeros: Arc<Aligned>,
}

impl Constants {
    fn new(graph: &Graph) -> Self {
        let most = |without: fn(&Norm) -> bool| {
            let of = |op: &Op| match op {
                Op::Conv { conv, .. } | Op::Depthwise { conv, .. } if without(&conv.norm) => conv.outputs,
                _ => 0,
            };
            graph.nodes.iter().map(|n| of(&n.op)).max().unwrap_or(0)
        };
        let ones = vec![1.0; padded(most(|n| n.scale.is_none()))];
        let zeros = Aligned::new(most(|n| n.bias.is_none()));
        Self { ones: Arc::new(Aligned::from(&ones)), zeros: Arc::new(zeros) }
    }

    fn epilogue(
        &self,
        store: &Store,
        norm: &Norm,
        n: usize,
        activation: Activation,
    ) -> Result<Epilogue, String> {
        let vector = |name: &Option<String>, without: &Arc<Aligned>| match name {
            None => Ok(Arc::clone(without)),
            Some(name) => {
                let vector = store.vectors.get(name).ok_or(format!("no vector {name:?}"))?;
                if vector.len() < n {
                    return Err(format!("{name:?}: {} numbers for {n} outputs", vector.len()));
                }
                Ok(Arc::clone(&vector.data))
            }
        };
        Ok(Epilogue {
            scale: vector(&norm.scale, &self.ones)?,
            bias: vector(&norm.bias, &self.zeros)?,
            activation,
        })
    }
}
