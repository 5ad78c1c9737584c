//! Every form against the reference, on any legal sizes; and a slice against its own dense packing.

use crate::engine::exec::{Arena, Crew};
use crate::engine::graph::{Activation, Conv, Graph, Norm, Padding, Shape, Value};
use crate::engine::plan::Plan;
use crate::engine::pool::Pool;
use crate::engine::store::{Slot, SlotKind, Source, Store};
use crate::kernel::Kernel;
use proptest::prelude::*;
use std::ops::ControlFlow;

const ACTIVATIONS: [Activation; 5] =
    [Activation::None, Activation::Relu, Activation::Relu6, Activation::HSwish, Activation::HSigmoid];

/// A network in which every operation occurs, and the slots it wants.
#[derive(Clone, Debug)]
struct Net {
    graph: Graph,
    slots: Vec<Slot>,
}

struct Builder {
    net: Net,
    /// By how much slots are larger than what is used of them: (inputs, outputs).
    slack: (usize, usize),
}

impl Builder {
    fn vectors(&mut self, name: &str, outputs: usize) -> Norm {
        for what in ["scale", "bias"] {
            let kind = SlotKind::Vector(outputs + self.slack.1);
            self.net.slots.push(Slot { name: format!("{name}.{what}"), kind });
        }
        Norm { scale: Some(format!("{name}.scale")), bias: Some(format!("{name}.bias")) }
    }

    fn conv(&mut self, x: Value, conv: Conv) -> Option<Value> {
        let norm = self.vectors(&conv.slot, conv.outputs);
        let inputs = self.net.graph.shape(x).channels / conv.groups;
        // The image is never sliced; groups are sliced by leaving some out.
        let slack = if x == self.net.graph.image() { (0, self.slack.1) } else { self.slack };
        let kind = SlotKind::Dense {
            kernel: conv.kernel,
            inputs: inputs + slack.0,
            outputs: conv.outputs + conv.groups * slack.1,
            groups: conv.groups,
            linear: false,
        };
        self.net.slots.push(Slot { name: conv.slot.clone(), kind });
        self.net.graph.conv(x, Conv { norm, ..conv }).ok()
    }

    fn depthwise(&mut self, x: Value, conv: Conv) -> Option<Value> {
        let norm = self.vectors(&conv.slot, conv.outputs);
        let kind = SlotKind::Depthwise {
            kernel: conv.kernel.0,
            channels: conv.outputs + self.slack.1,
            elastic: false,
        };
        self.net.slots.push(Slot { name: conv.slot.clone(), kind });
        self.net.graph.depthwise(x, Conv { norm, ..conv }).ok()
    }
}

fn conv(slot: &str, kernel: usize, outputs: usize, activation: Activation) -> Conv {
    Conv {
        slot: slot.into(),
        kernel: (kernel, kernel),
        outputs,
        groups: 1,
        stride: 1,
        padding: Padding::Half,
        norm: Norm { scale: None, bias: None },
        add: None,
        activation,
    }
}

/// Sizes and kinds of a [`Net`].
#[derive(Clone, Debug)]
struct Sizes {
    image: (usize, usize, usize),
    widths: (usize, usize, usize),
    kernels: (usize, usize),
    strides: (usize, usize),
    padding: Padding,
    activation: Activation,
    groups: usize,
    pool: usize,
    slack: (usize, usize),
    seed: u64,
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let image = (4..40usize, 4..40usize, prop_oneof![Just(1usize), Just(3)]);
    let kinds = (0..3usize, 0..3usize, 1..3usize, 1..3usize, 0..3usize, 0..5usize);
    let rest = (1..4usize, 1..3usize, 0..20usize, 0..20usize, any::<u64>());
    (image, (1..80usize, 1..150usize, 1..70usize), kinds, rest).prop_map(
        |(image, widths, (k1, k2, s1, s2, padding, activation), (groups, pool, si, so, seed))| Sizes {
            image,
            widths,
            kernels: (2 * k1 + 1, 2 * k2 + 3),
            strides: (s1, s2),
            padding: [Padding::Half, Padding::Same, Padding::Valid][padding],
            activation: ACTIVATIONS[activation],
            groups,
            pool,
            slack: (si, so),
            seed,
        },
    )
}

impl Sizes {
    /// `None`: nothing is left of a map. Without `slack`, every slot is as large as what is used of it.
    fn net(&self, slack: (usize, usize)) -> Option<Net> {
        let (height, width, channels) = self.image;
        let graph = Graph::new(Shape { height, width, channels });
        let mut b = Builder { net: Net { graph, slots: Vec::new() }, slack };
        let stem = Conv {
            stride: self.strides.0,
            padding: self.padding,
            ..conv("stem", self.kernels.0, self.widths.0, self.activation)
        };
        let x = b.conv(Value(0), stem)?;
        let expanded = b.conv(x, conv("expand", 1, self.widths.1, self.activation))?;
        let dw = Conv {
            stride: self.strides.1,
            padding: self.padding,
            ..conv("dw", self.kernels.1, self.widths.1, self.activation)
        };
        let y = b.depthwise(expanded, dw)?;
        let s = b.net.graph.mean(y).ok()?;
        let s = b.conv(s, conv("se", 1, self.widths.1, Activation::HSigmoid))?;
        let y = b.net.graph.scale(y, s).ok()?;
        let y = b.conv(y, conv("project", 1, self.widths.2, Activation::None))?;
        let three = Conv { add: Some(y), ..conv("three", 3, self.widths.2, self.activation) };
        let z = b.conv(y, three)?;
        let z = b.net.graph.add(z, y, self.activation).ok()?;
        // Grouped: the inputs of every group, 16 outputs each.
        let groups = self.groups;
        let w = b.conv(z, conv("widen", 1, groups * 5, self.activation))?;
        let w = b.conv(w, Conv { groups, ..conv("grouped", 3, groups * 16, self.activation) })?;
        let w = b.net.graph.max_pool(w, self.pool).ok()?;
        let Shape { height, width, .. } = b.net.graph.shape(w);
        if height * width > 64 {
            let w = b.net.graph.mean(w).ok()?;
            b.conv(w, conv("fc", 1, 10, Activation::None))?;
        } else {
            let fc = conv("fc", 1, 10, Activation::None);
            b.conv(w, Conv { kernel: (height, width), padding: Padding::Valid, ..fc })?;
        }
        Some(b.net)
    }
}

fn image(shape: Shape, seed: u64) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..shape.pixels() * shape.channels).map(|_| 2.0 * rng.f32() - 1.0).collect()
}

fn run(plan: &Plan, image: &[f32], kernel: Kernel, crew: &mut Crew<'_>) -> Vec<f32> {
    let mut arena = Arena::new([plan]);
    let row = plan.image().width * plan.image().channels;
    plan.lay_image(&mut arena, |y, to| to.copy_from_slice(&image[y * row..][..row]));
    let end = plan.run(0..plan.layers(), &mut arena, kernel, crew, |_| ControlFlow::Continue(()));
    assert_eq!(end, ControlFlow::Continue(()));
    plan.logits(&arena).to_vec()
}

fn close(found: &[f32], expected: &[f32]) -> bool {
    let largest = expected.iter().fold(1e-3_f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-4 * largest)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(64), ..ProptestConfig::default() })]

    #[test]
    fn every_form_agrees_with_the_reference_on_any_number_of_threads(sizes in sizes()) {
        let Some(net) = sizes.net(sizes.slack) else { return Ok(()) };
        let store = Store::new(&net.slots, &Source::Seed(sizes.seed)).unwrap();
        let plan = Plan::new(&net.graph, &store).unwrap();
        let image = image(net.graph.input, sizes.seed);
        let expected = run(&plan, &image, Kernel::reference(), &mut Crew::Alone);
        prop_assert!(expected.iter().all(|x| x.is_finite()));
        let mut pool = Pool::new(3).unwrap();
        for kernel in Kernel::all() {
            let alone = run(&plan, &image, kernel, &mut Crew::Alone);
            prop_assert!(close(&alone, &expected), "{kernel:?}: {alone:?}, expected {expected:?}");
            pool.begin(3);
            let shared = run(&plan, &image, kernel, &mut Crew::Of(&mut pool, 3));
            pool.end();
            prop_assert_eq!(shared, alone, "{:?}: bit for bit on three threads", kernel);
        }
    }

    #[test]
    fn a_slice_is_bit_for_bit_its_own_dense_packing(sizes in sizes()) {
        let (Some(net), Some(own)) = (sizes.net(sizes.slack), sizes.net((0, 0))) else { return Ok(()) };
        let store = Store::new(&net.slots, &Source::Seed(sizes.seed)).unwrap();
        let dense = cut(&net, &own, sizes.seed);
        let image = image(net.graph.input, sizes.seed);
        let (view, alone) = (Plan::new(&net.graph, &store).unwrap(), Plan::new(&own.graph, &dense).unwrap());
        for kernel in Kernel::all() {
            let view = run(&view, &image, kernel, &mut Crew::Alone);
            prop_assert_eq!(view, run(&alone, &image, kernel, &mut Crew::Alone), "{:?}", kernel);
        }
    }
}

/// The store of `own`, filled with the prefixes of the tensors that a store of `net` is filled with.
fn cut(net: &Net, own: &Net, seed: u64) -> Store {
    let mut bytes = Vec::new();
    for (whole, part) in net.slots.iter().zip(&own.slots) {
        let (values, shape) = (Source::Seed(seed).values(whole).unwrap(), part.kind.shape());
        let values: Vec<f32> = match (whole.kind, part.kind) {
            (
                SlotKind::Dense { inputs: wi, outputs: wo, groups, kernel, .. },
                SlotKind::Dense { inputs, outputs, .. },
            ) => (0..kernel.0 * kernel.1)
                .flat_map(|tap| (0..inputs).map(move |i| (tap, i)))
                .flat_map(|(tap, i)| (0..outputs).map(move |o| (tap, i, o)))
                .map(|(tap, i, o)| {
                    let (group, o) = (o / (outputs / groups), o % (outputs / groups));
                    values[(tap * wi + i) * wo + group * (wo / groups) + o]
                })
                .collect(),
            (SlotKind::Depthwise { kernel, channels: wc, .. }, SlotKind::Depthwise { channels, .. }) => {
                (0..kernel * kernel).flat_map(|tap| values[tap * wc..][..channels].to_vec()).collect()
            }
            (_, SlotKind::Vector(n)) => values[..n].to_vec(),
            other => unreachable!("{other:?}"),
        };
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.push((part.name.clone(), shape, raw));
    }
    let views = bytes.iter().map(|(name, shape, raw)| {
        (
            name.clone(),
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), raw).unwrap(),
        )
    });
    let file = safetensors::serialize(views, None).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    Store::new(&own.slots, &Source::File(tensors)).unwrap()
}

#[test]
fn activations_are_their_definitions() {
    // hswish and hsigmoid by hand at -4, -3, -1, 0, 1, 3, 4 (arXiv 1905.02244).
    let x = [-4.0, -3.0, -1.0, 0.0, 1.0, 3.0, 7.0];
    let expected = [
        (Activation::None, x),
        (Activation::Relu, [0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 7.0]),
        (Activation::Relu6, [0.0, 0.0, 0.0, 0.0, 1.0, 3.0, 6.0]),
        (Activation::HSwish, [0.0, 0.0, -1.0 / 3.0, 0.0, 2.0 / 3.0, 3.0, 7.0]),
        (Activation::HSigmoid, [0.0, 0.0, 1.0 / 3.0, 0.5, 2.0 / 3.0, 1.0, 1.0]),
    ];
    for (activation, expected) in expected {
        let found: Vec<f32> = x.iter().map(|x| activation.of(*x)).collect();
        assert!(close(&found, &expected), "{activation:?}: {found:?}");
    }
}

#[test]
fn a_run_goes_on_where_it_was_stopped() {
    let sizes = Sizes {
        image: (20, 20, 3),
        widths: (24, 40, 24),
        kernels: (3, 5),
        strides: (2, 1),
        padding: Padding::Half,
        activation: Activation::HSwish,
        groups: 2,
        pool: 2,
        slack: (0, 0),
        seed: 1,
    };
    let net = sizes.net((0, 0)).unwrap();
    let store = Store::new(&net.slots, &Source::Seed(1)).unwrap();
    let plan = Plan::new(&net.graph, &store).unwrap();
    let image = image(net.graph.input, 1);
    let expected = run(&plan, &image, Kernel::best(), &mut Crew::Alone);
    for stop in 0..plan.layers() {
        let mut arena = Arena::new([&plan]);
        plan.lay_image(&mut arena, |y, to| to.copy_from_slice(&image[y * 60..][..60]));
        let mut go = |layers, until| {
            plan.run(layers, &mut arena, Kernel::best(), &mut Crew::Alone, |layer| {
                if layer == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        assert_eq!(go(0..plan.layers(), stop), ControlFlow::Break(()));
        assert_eq!(go(stop + 1..plan.layers(), usize::MAX), ControlFlow::Continue(()));
        assert_eq!(plan.logits(&arena), expected);
    }
}

#[test]
fn the_tests_above_meet_the_form_of_this_architecture() {
    let name = if cfg!(target_arch = "aarch64") { "neon" } else { "portable" };
    assert!(Kernel::all().iter().any(|k| k.name() == name), "{:?}", Kernel::all());
}
