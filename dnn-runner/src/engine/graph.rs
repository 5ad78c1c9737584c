//! What a sub-network computes: layers in the order they run, on named slots.
//!
//! Responsible for: the shapes of maps, and what a network costs. Built by [`crate::family`], made
//! runnable by [`super::plan`].

pub use crate::kernel::Activation;

/// A map: the image is 0, the output of layer i is i + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value(pub usize);

/// Rows, columns, channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub struct Shape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Shape {
    /// Rows times columns.
    pub const fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// Zeros around a convolution's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// None: the kernel stays inside.
    Valid,
    /// `kernel / 2` on every side.
    Half,
    /// As TensorFlow does: output = ceil(input / stride), the odd zero behind.
    Same,
}

impl Padding {
    /// Zeros before, and the size of the output, along one side.
    fn along(self, size: usize, kernel: usize, stride: usize) -> Option<(usize, usize)> {
        let (before, all) = match self {
            Self::Valid => (0, 0),
            Self::Half => (kernel / 2, kernel / 2 * 2),
            Self::Same => {
                let all = (size.div_ceil(stride).max(1) - 1) * stride + kernel;
                let all = all.saturating_sub(size);
                (all / 2, all)
            }
        };
        Some((before, (size + all).checked_sub(kernel)? / stride + 1))
    }
}

/// What a sum is multiplied by, and what is added: names of vectors, of which a prefix is used. They are
/// a sub-network's own where it has its own batch-norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Norm {
    /// Without one, 1.
    pub scale: Option<String>,
    /// Without one, 0.
    pub bias: Option<String>,
}

/// A convolution's properties. A linear layer is one whose kernel is as large as its map.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Its weights.
    pub slot: String,
    /// Rows and columns of the kernel.
    pub kernel: (usize, usize),
    /// Outputs it makes, of all groups.
    pub outputs: usize,
    /// Groups of channels; inputs and outputs divide by it.
    pub groups: usize,
    /// Pixels between two outputs.
    pub stride: usize,
    /// Around the input.
    pub padding: Padding,
    /// Epilogue.
    pub norm: Norm,
    /// A map that is added before the activation.
    pub add: Option<Value>,
    /// Last.
    pub activation: Activation,
}

/// One layer.
#[derive(Clone, Debug)]
pub enum Op {
    /// Dense or grouped convolution, or linear.
    Conv {
        /// Zeros before the first row and column.
        before: (usize, usize),
        /// The rest.
        conv: Conv,
    },
    /// Each channel with its own kernel; `conv.outputs` are the inputs.
    Depthwise {
        /// Zeros before the first row and column.
        before: (usize, usize),
        /// The rest.
        conv: Conv,
    },
    /// Maximum over cells of this side.
    MaxPool(usize),
    /// Mean over all pixels.
    Mean,
    /// Each channel by a factor.
    Scale(Value),
    /// Sum of two maps.
    Add(Value, Activation),
}

/// A layer, what it works on and what it makes.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does,
    pub op: Op,
    /// to what,
    pub input: Value,
    /// making what.
    pub shape: Shape,
}

/// A sub-network.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The image.
    pub input: Shape,
    /// In the order they run.
    pub nodes: Vec<Node>,
}

/// Why a layer cannot be: its place, and the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("layer {layer}: {rule}")]
pub struct GraphError {
    /// Which.
    pub layer: usize,
    /// What is wrong.
    pub rule: String,
}

impl Graph {
    /// An image and nothing yet.
    pub const fn new(input: Shape) -> Self {
        Self { input, nodes: Vec::new() }
    }

    /// The image.
    pub const fn image(&self) -> Value {
        Value(0)
    }

    /// Of a map.
    pub fn shape(&self, of: Value) -> Shape {
        of.0.checked_sub(1).map_or(self.input, |i| self.nodes[i].shape)
    }

    fn push(&mut self, op: Op, input: Value, shape: Shape) -> Value {
        self.nodes.push(Node { op, input, shape });
        Value(self.nodes.len())
    }

    fn refuse<T>(&self, rule: String) -> Result<T, GraphError> {
        Err(GraphError { layer: self.nodes.len(), rule })
    }

    fn place(&self, x: Value, c: &Conv) -> Result<((usize, usize), Shape), GraphError> {
        let from = self.shape(x);
        let along = |size, kernel| c.padding.along(size, kernel, c.stride);
        let (Some((top, height)), Some((left, width))) =
            (along(from.height, c.kernel.0), along(from.width, c.kernel.1))
        else {
            return self.refuse(format!(
                "{:?}: kernel {} x {} on a map of {} x {}",
                c.slot, c.kernel.0, c.kernel.1, from.height, from.width
            ));
        };
        let shape = Shape { height, width, channels: c.outputs };
        if c.add.is_some_and(|a| self.shape(a) != shape) {
            return self.refuse(format!("{:?}: adds a map of another shape", c.slot));
        }
        Ok(((top, left), shape))
    }

    /// Adds a dense or grouped convolution.
    pub fn conv(&mut self, x: Value, conv: Conv) -> Result<Value, GraphError> {
        let (before, shape) = self.place(x, &conv)?;
        let inputs = self.shape(x).channels;
        if !inputs.is_multiple_of(conv.groups) || !conv.outputs.is_multiple_of(conv.groups) {
            return self
                .refuse(format!("{:?}: {} groups do not divide the channels", conv.slot, conv.groups));
        }
        Ok(self.push(Op::Conv { before, conv }, x, shape))
    }

    /// Adds a depthwise convolution.
    pub fn depthwise(&mut self, x: Value, conv: Conv) -> Result<Value, GraphError> {
        let (before, shape) = self.place(x, &conv)?;
        if conv.outputs != self.shape(x).channels || conv.add.is_some() {
            return self.refuse(format!("{:?}: depthwise keeps the channels and adds nothing", conv.slot));
        }
        if !matches!((conv.kernel, conv.stride), ((3, 3) | (5, 5) | (7, 7), 1 | 2)) {
            return self.refuse(format!("{:?}: depthwise has kernel 3, 5 or 7 and stride 1 or 2", conv.slot));
        }
        Ok(self.push(Op::Depthwise { before, conv }, x, shape))
    }

    /// Adds a maximum pooling over cells of this side; what is left of a cell is left out.
    pub fn max_pool(&mut self, x: Value, cell: usize) -> Result<Value, GraphError> {
        let Shape { height, width, channels } = self.shape(x);
        if cell == 0 || height < cell || width < cell || x == self.image() {
            return self.refuse(format!("pool {cell} leaves nothing of {height} x {width}"));
        }
        let shape = Shape { height: height / cell, width: width / cell, channels };
        Ok(self.push(Op::MaxPool(cell), x, shape))
    }

    /// Adds a mean over all pixels.
    pub fn mean(&mut self, x: Value) -> Result<Value, GraphError> {
        if x == self.image() {
            return self.refuse("the mean of the image itself".into());
        }
        let channels = self.shape(x).channels;
        Ok(self.push(Op::Mean, x, Shape { height: 1, width: 1, channels }))
    }

    /// Adds a channel-wise scaling of `x` by the map `by` of one pixel.
    pub fn scale(&mut self, x: Value, by: Value) -> Result<Value, GraphError> {
        let (shape, by_shape) = (self.shape(x), self.shape(by));
        if by_shape.pixels() != 1 || by_shape.channels != shape.channels || x == self.image() {
            return self.refuse(format!("scales {shape:?} by {by_shape:?}"));
        }
        Ok(self.push(Op::Scale(by), x, shape))
    }

    /// Adds a sum.
    pub fn add(&mut self, x: Value, y: Value, activation: Activation) -> Result<Value, GraphError> {
        if self.shape(x) != self.shape(y) || x == self.image() || y == self.image() {
            return self.refuse("adds maps of different shapes".into());
        }
        Ok(self.push(Op::Add(y, activation), x, self.shape(x)))
    }

    /// The last layer's map: the logits, one pixel.
    pub fn output(&self) -> Value {
        Value(self.nodes.len())
    }

    /// Multiply-accumulates of one image in convolutions and linear layers (squeeze and excite included,
    /// as the literature on mobile networks counts them).
    pub fn macs(&self) -> u64 {
        let of = |n: &Node| match &n.op {
            Op::Conv { conv, .. } => {
                let inputs = self.shape(n.input).channels / conv.groups;
                n.shape.pixels() * conv.kernel.0 * conv.kernel.1 * inputs * conv.outputs
            }
            Op::Depthwise { conv, .. } => n.shape.pixels() * conv.kernel.0 * conv.kernel.1 * conv.outputs,
            _ => 0,
        };
        self.nodes.iter().map(|n| of(n) as u64).sum()
    }

    /// Numbers that it uses: weights, scales and biases.
    pub fn params(&self) -> u64 {
        let of = |n: &Node| match &n.op {
            Op::Conv { conv, .. } | Op::Depthwise { conv, .. } => {
                let inputs = match n.op {
                    Op::Depthwise { .. } => 1,
                    _ => self.shape(n.input).channels / conv.groups,
                };
                let epilogue = usize::from(conv.norm.bias.is_some()) + usize::from(conv.norm.scale.is_some());
                conv.outputs * (conv.kernel.0 * conv.kernel.1 * inputs + epilogue)
            }
            _ => 0,
        };
        self.nodes.iter().map(|n| of(n) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_as_the_frameworks_define_it() {
        // PyTorch Conv2d(k, s, padding=k//2): floor((224 + 2 - 3) / 2) + 1; TensorFlow SAME: ceil(224 / 2), pad (0, 1).
        assert_eq!(Padding::Half.along(224, 3, 2), Some((1, 112)));
        assert_eq!(Padding::Same.along(224, 3, 2), Some((0, 112)));
        assert_eq!(Padding::Same.along(113, 3, 2), Some((1, 57)));
        assert_eq!(Padding::Same.along(7, 5, 1), Some((2, 7)));
        assert_eq!(Padding::Valid.along(7, 7, 1), Some((0, 1)));
        assert_eq!(Padding::Valid.along(6, 7, 1), None);
    }
}
