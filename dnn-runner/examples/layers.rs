//! Time of each layer of a sub-network, the least of many runs: where an inference's time goes.
//!
//! `cargo run --release -p dnn-runner --example layers -- MANIFEST SUBNET [FORM]`

use dnn_runner::engine::exec::{Arena, Crew};
use dnn_runner::engine::graph::{Graph, Node, Op};
use dnn_runner::kernel::Kernel;
use dnn_runner::manifest::Manifest;
use dnn_runner::model::Supernet;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

const RUNS: usize = 100;

fn kind(graph: &Graph, node: &Node) -> (String, usize) {
    let pixels = node.shape.pixels();
    match &node.op {
        Op::Conv { conv, .. } => {
            let inputs = graph.shape(node.input).channels / conv.groups;
            let macs = pixels * inputs * conv.kernel.0 * conv.kernel.1 * conv.outputs;
            let kind = if pixels == 1 { "linear".into() } else { format!("conv {}", conv.kernel.0) };
            (kind, macs)
        }
        Op::Depthwise { conv, .. } => (
            format!("depthwise {} /{}", conv.kernel.0, conv.stride),
            pixels * conv.kernel.0 * conv.kernel.1 * conv.outputs,
        ),
        Op::MaxPool(_) => ("max pool".into(), 0),
        Op::Mean => ("mean".into(), 0),
        Op::Scale(_) => ("scale".into(), 0),
        Op::Add(..) => ("add".into(), 0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display")]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, subnet, ..] = &args[..] else { panic!("layers MANIFEST SUBNET [FORM]") };
    let path = Path::new(path);
    let (manifest, _) = Manifest::read(path).expect("a good manifest");
    let net = Supernet::load(path).expect("a good network");
    let subnet = net.subnet(subnet).expect("a sub-network of that name");
    let graph = &manifest.graphs().expect("good graphs")[subnet];
    let plan = &net.engine().elastic().expect("an elastic network").plans()[subnet];
    let kernel = args.get(2).map_or_else(Kernel::best, |k| Kernel::named(k).expect("a form of this CPU"));
    let mut arena = Arena::new([plan]);
    plan.lay_image(&mut arena, |_, to| to.fill(0.5));
    let mut best = vec![u128::MAX; plan.layers()];
    for _ in 0..RUNS {
        let mut began = Instant::now();
        let _ = plan.run(0..plan.layers(), &mut arena, kernel, &mut Crew::Alone, |layer| {
            best[layer] = best[layer].min(began.elapsed().as_nanos());
            began = Instant::now();
            ControlFlow::Continue(())
        });
    }
    let mut kinds: BTreeMap<String, (u128, usize)> = BTreeMap::new();
    for (node, ns) in graph.nodes.iter().zip(&best) {
        let (kind, macs) = kind(graph, node);
        let s = node.shape;
        println!(
            "{kind:<16} {:>4} -> {:>3}x{:<3} {:>4}  {:>9} ns {:>7.1} MAC/ns",
            graph.shape(node.input).channels,
            s.height,
            s.width,
            s.channels,
            ns,
            macs as f64 / *ns as f64
        );
        let sum = kinds.entry(kind).or_default();
        *sum = (sum.0 + ns, sum.1 + macs);
    }
    for (kind, (ns, macs)) in kinds {
        println!("{kind:<16} {:>8} us  {:>7.1} MAC/ns", ns / 1000, macs as f64 / ns as f64);
    }
}
