//! A sub-network as an ONNX file of its own: for other engines, and to compare with them.
//!
//! Responsible for: the few messages of ONNX's protobuf that a convolutional network needs
//! (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>; field numbers below are its). Batch-norm is
//! folded into the weights, as exporters do; so the file's numbers are close to ours, not the same bits.

use super::graph::{Activation, Conv, Graph, Node, Op, Shape, Value};
use super::store::Store;
use crate::kernel::padded;

/// IR version 8 and operator set 14: what ONNX Runtime 1.10 and later read.
const VERSIONS: (u64, u64) = (8, 14);

/// A message under construction.
#[derive(Clone, Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).expect("seven bits"));
    }
    fn int(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }
    fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }
    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
    fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }
    fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }
}

/// AttributeProto: name 1, f 2, ints 8, type 20 (FLOAT 1, INTS 7).
fn floats(name: &str, value: f32) -> Message {
    Message::default().text(1, name).float(2, value).int(20, 1)
}

fn ints(name: &str, values: &[usize]) -> Message {
    let all = values.iter().fold(Message::default().text(1, name), |m, v| m.int(8, *v as u64));
    all.int(20, 7)
}

/// INT 2: i 3.
fn int(name: &str, value: usize) -> Message {
    Message::default().text(1, name).int(3, value as u64).int(20, 2)
}

/// ValueInfoProto: name 1, type 2 (tensor_type 1: elem_type 1 = FLOAT, shape 2: dim 1: dim_value 1).
fn value_info(name: &str, dims: &[usize]) -> Message {
    let shape =
        dims.iter().fold(Message::default(), |m, d| m.message(1, &Message::default().int(1, *d as u64)));
    let tensor = Message::default().int(1, 1).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

struct Export<'a> {
    graph: &'a Graph,
    store: &'a Store,
    /// GraphProto: node 1, name 2, initializer 5, input 11, output 12.
    out: Message,
}

impl Export<'_> {
    /// NodeProto: input 1, output 2, op_type 4, attribute 5.
    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[Message]) {
        let node = inputs.iter().fold(Message::default(), |m, i| m.text(1, i));
        let node = node.text(2, output).text(4, op);
        let node = attributes.iter().fold(node, |m, a| m.message(5, a));
        self.out = std::mem::take(&mut self.out).message(1, &node);
    }

    /// TensorProto: dims 1, data_type 2 = FLOAT, name 8, raw_data 9.
    fn tensor(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = dims.iter().fold(Message::default(), |m, d| m.int(1, *d as u64));
        let tensor = tensor.int(2, 1).text(8, name).bytes(9, &raw);
        self.out = std::mem::take(&mut self.out).message(5, &tensor);
    }

    fn activation(&mut self, activation: Activation, from: &str, to: &str) {
        match activation {
            Activation::None => self.node("Identity", &[from], to, &[]),
            Activation::Relu => self.node("Relu", &[from], to, &[]),
            Activation::Relu6 => {
                self.tensor(&format!("{to}.min"), &[], &[0.0]);
                self.tensor(&format!("{to}.max"), &[], &[6.0]);
                self.node("Clip", &[from, &format!("{to}.min"), &format!("{to}.max")], to, &[]);
            }
            Activation::HSwish => self.node("HardSwish", &[from], to, &[]),
            Activation::HSigmoid => {
                let by = [floats("alpha", 1.0 / 6.0), floats("beta", 0.5)];
                self.node("HardSigmoid", &[from], to, &by);
            }
        }
    }

    fn vector(&self, name: Option<&String>, without: f32, n: usize) -> Vec<f32> {
        name.and_then(|n| self.store.vectors.get(n))
            .map_or_else(|| vec![without; n], |v| v.data[..n].to_vec())
    }

    /// (output, input, row, column), scaled.
    fn weights(&self, conv: &Conv, inputs: usize, depthwise: bool) -> Vec<f32> {
        let taps = conv.kernel.0 * conv.kernel.1;
        let scale = self.vector(conv.norm.scale.as_ref(), 1.0, conv.outputs);
        let mut all = Vec::with_capacity(conv.outputs * inputs * taps);
        for (o, scale) in scale.iter().enumerate() {
            for (i, tap) in (0..inputs).flat_map(|i| (0..taps).map(move |t| (i, t))) {
                let w = if depthwise {
                    let slot = &self.store.depthwise[&(conv.slot.clone(), conv.kernel.0)];
                    slot.data[tap * padded(slot.channels) + o]
                } else {
                    let n = conv.outputs / conv.groups;
                    self.store.dense[&conv.slot].at(o / n, o % n, tap, i)
                };
                all.push(w * scale);
            }
        }
        all
    }

    fn conv(&mut self, at: usize, node: &Node, before: (usize, usize), conv: &Conv, depthwise: bool) {
        let (from, to) = (name(node.input), name(Value(at + 1)));
        let shape = self.graph.shape(node.input);
        let groups = if depthwise { conv.outputs } else { conv.groups };
        let inputs = shape.channels / groups;
        let weights = self.weights(conv, inputs, depthwise);
        self.tensor(&format!("w{at}"), &[conv.outputs, inputs, conv.kernel.0, conv.kernel.1], &weights);
        let bias = self.vector(conv.norm.bias.as_ref(), 0.0, conv.outputs);
        self.tensor(&format!("b{at}"), &[conv.outputs], &bias);
        let behind = |out: usize, kernel: usize, before: usize, size: usize| {
            ((out - 1) * conv.stride + kernel).saturating_sub(before + size)
        };
        let pads = [
            before.0,
            before.1,
            behind(node.shape.height, conv.kernel.0, before.0, shape.height),
            behind(node.shape.width, conv.kernel.1, before.1, shape.width),
        ];
        let attributes = [
            ints("kernel_shape", &[conv.kernel.0, conv.kernel.1]),
            ints("pads", &pads),
            ints("strides", &[conv.stride, conv.stride]),
            int("group", groups),
        ];
        let inputs = [from.as_str(), &format!("w{at}"), &format!("b{at}")];
        let (sum, done) = (format!("{to}.conv"), format!("{to}.sum"));
        let mut last = to.clone();
        if conv.add.is_some() || conv.activation != Activation::None {
            last = sum.clone();
        }
        self.node("Conv", &inputs, &last, &attributes);
        if let Some(add) = conv.add {
            let out = if conv.activation == Activation::None { to.clone() } else { done };
            self.node("Add", &[&last, &name(add)], &out, &[]);
            last = out;
        }
        if conv.activation != Activation::None {
            self.activation(conv.activation, &last, &to);
        }
    }
}

fn name(value: Value) -> String {
    format!("x{}", value.0)
}

/// The file's bytes: one input `x0` (1, channels, rows, columns), one output `logits` (1, classes).
pub fn onnx(graph: &Graph, store: &Store) -> Vec<u8> {
    let mut export = Export { graph, store, out: Message::default() };
    for (at, node) in graph.nodes.iter().enumerate() {
        let (from, to) = (name(node.input), name(Value(at + 1)));
        match &node.op {
            Op::Conv { before, conv } => export.conv(at, node, *before, conv, false),
            Op::Depthwise { before, conv } => export.conv(at, node, *before, conv, true),
            Op::MaxPool(cell) => {
                let by = [ints("kernel_shape", &[*cell, *cell]), ints("strides", &[*cell, *cell])];
                export.node("MaxPool", &[&from], &to, &by);
            }
            Op::Mean => export.node("GlobalAveragePool", &[&from], &to, &[]),
            Op::Scale(by) => export.node("Mul", &[&from, &name(*by)], &to, &[]),
            Op::Add(y, activation) => {
                let sum = format!("{to}.sum");
                export.node("Add", &[&from, &name(*y)], &sum, &[]);
                export.activation(*activation, &sum, &to);
            }
        }
    }
    let output = graph.output();
    export.node("Flatten", &[&name(output)], "logits", &[]);
    let Shape { height, width, channels } = graph.input;
    let body = export.out.text(2, "subnet");
    let body = body.message(11, &value_info("x0", &[1, channels, height, width]));
    let body = body.message(12, &value_info("logits", &[1, graph.shape(output).channels]));
    // ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8 (version 2).
    let opset = Message::default().text(1, "").int(2, VERSIONS.1);
    let model = Message::default().int(1, VERSIONS.0).text(2, "tandem");
    model.message(7, &body).message(8, &opset).0
}
