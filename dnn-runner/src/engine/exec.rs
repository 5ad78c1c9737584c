//! Running a plan: layer by layer, on the arena, on as many threads as asked for.
//!
//! Responsible for: cutting a layer into tasks, and the pointers behind [`crate::kernel`]'s promise. One
//! arena serves every plan; an inference allocates nothing. It can stop after every layer and go on
//! later: what it has made lies in the arena.
#![expect(unsafe_code, reason = "several threads write parts of one arena; the kernels take pointers")]

use super::memory::Aligned;
use super::plan::{DEPTH_MAX, DepthwiseStep, Plan, ProductStep, Step};
use super::pool::{Pool, TASKS_MAX};
use crate::kernel::depthwise::Depthwise;
use crate::kernel::gemm::{Product, ROWS, TILE_MAX as TILE};
use crate::kernel::simple::{Add, MaxPool, Mean, Scale};
use crate::kernel::{Kernel, LANES};
use std::ops::{ControlFlow, Range};

static ZEROS: [f32; DEPTH_MAX] = [0.0; DEPTH_MAX];
/// Multiply-accumulates below which a layer is not shared: handing over costs about as much.
const WORTH_SHARING: usize = 50_000;
/// Tasks of a layer for each thread, so that they end together.
const TASKS_PER_THREAD: usize = 3;
/// Pixels of a map that are worth a task: three tiles.
const PIECE_MIN: usize = 3 * TILE;
/// Numbers of a convolution's input that stay in the second cache while all panels pass.
const BLOCK: usize = 65_536;

/// The memory of one inference.
#[derive(Debug, Default)]
pub struct Arena(Aligned);

impl Arena {
    /// Large enough for the largest of `plans`.
    pub fn new<'p>(plans: impl IntoIterator<Item = &'p Plan>) -> Self {
        Self(Aligned::new(plans.into_iter().map(|p| p.arena).max().unwrap_or(0)))
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.0.len() * size_of::<f32>()
    }
}

/// Who works on a layer.
#[derive(Debug)]
pub enum Crew<'a> {
    /// The caller.
    Alone,
    /// The caller and helpers; the inference has begun ([`Pool::begin`]) with so many threads.
    Of(&'a mut Pool, usize),
}

impl Crew<'_> {
    const fn threads(&self) -> usize {
        match self {
            Self::Alone => 1,
            Self::Of(_, threads) => *threads,
        }
    }

    fn run(&mut self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        match self {
            Self::Alone => (0..tasks).for_each(work),
            Self::Of(pool, _) => pool.run(tasks, &|task, _| work(task), &mut || {}),
        }
    }
}

/// A kernel's arguments, for several threads.
struct Args<T>(T);
// SAFETY: the pointers in it are read as the kernels' promise allows, which `Run` keeps for every task.
unsafe impl<T> Sync for Args<T> {}
impl<T> Args<T> {
    const fn get(&self) -> &T {
        &self.0
    }
}

/// `parts` pieces of `0..all`, each a multiple of `unit` but the last.
#[derive(Clone, Copy, Debug)]
struct Cut {
    all: usize,
    piece: usize,
}

impl Cut {
    fn new(all: usize, unit: usize, parts: usize) -> Self {
        Self { all, piece: all.div_ceil(parts.max(1)).next_multiple_of(unit).max(unit) }
    }

    /// Of a map: `parts` for the threads, and no fewer than `least`.
    fn pixels(all: usize, parts: usize, least: usize) -> Self {
        let parts = parts.min((all / PIECE_MIN).max(1)).max(least);
        // A last tile of a piece that is not full costs less than a thread that waits for another.
        let unit = if parts > 1 && all / parts < 4 * ROWS { TILE } else { ROWS };
        Self::new(all, unit, parts)
    }
    const fn count(self) -> usize {
        self.all.div_ceil(self.piece)
    }
    fn piece(self, i: usize) -> Range<usize> {
        i * self.piece..((i + 1) * self.piece).min(self.all)
    }
}

impl Plan {
    /// The image's memory with its border cleared; `row` lays row y: `width * channels` numbers.
    pub fn lay_image(&self, arena: &mut Arena, mut row: impl FnMut(usize, &mut [f32])) {
        let shape = self.image.shape;
        arena.0[self.image_memory.clone()].fill(0.0);
        for y in 0..shape.height {
            row(y, &mut arena.0[self.image.at + y * self.image.row..][..shape.width * shape.channels]);
        }
    }

    /// Runs layers `layers`; asks `go_on` after each, with its number. Whether it came to the end.
    pub fn run(
        &self,
        layers: Range<usize>,
        arena: &mut Arena,
        kernel: Kernel,
        crew: &mut Crew<'_>,
        mut go_on: impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        assert!(arena.0.len() >= self.arena, "an arena for all plans");
        let mut run = Run { base: arena.0.as_mut_ptr(), kernel, crew };
        for layer in layers {
            run.layer(&self.steps[layer]);
            go_on(layer)?;
        }
        ControlFlow::Continue(())
    }

    /// What the last layer made.
    pub fn logits<'a>(&self, arena: &'a Arena) -> &'a [f32] {
        &arena.0[self.output.at..][..self.output.shape.channels]
    }
}

/// One group's arguments; `base` begins the arena.
fn group(base: *mut f32, p: &ProductStep, g: usize) -> Product {
    let outputs = p.output.shape.channels / p.groups;
    let inputs = p.input.shape.channels / p.groups;
    let first = p.before.0 * p.input.row + p.before.1 * p.input.pixel;
    Product {
        input: base.wrapping_add(p.input.at).wrapping_sub(first).wrapping_add(g * inputs),
        pixel: p.input.pixel,
        row: p.input.row,
        height: p.input.shape.height,
        width: p.input.shape.width,
        taps: p.taps,
        stride: p.stride,
        padding: p.before,
        bordered: p.bordered,
        zeros: ZEROS.as_ptr(),
        depth: p.depth,
        weights: p.dense.data[g * p.dense.group()..].as_ptr(),
        lanes: p.dense.lanes(),
        panel: p.dense.panel(),
        tap: p.tap,
        scale: p.epilogue.scale[g * outputs..].as_ptr(),
        bias: p.epilogue.bias[g * outputs..].as_ptr(),
        residual: p.residual.map_or(std::ptr::null(), |r| base.wrapping_add(r).wrapping_add(g * outputs)),
        output: base.wrapping_add(p.output.at).wrapping_add(g * outputs),
        output_pixel: p.output.pixel,
        out: (p.output.shape.height, p.output.shape.width),
        activation: p.epilogue.activation,
    }
}

/// One inference under way. `base` begins an arena as large as the plan wants, borrowed for the run.
struct Run<'a, 'p> {
    base: *mut f32,
    kernel: Kernel,
    crew: &'a mut Crew<'p>,
}

impl Run<'_, '_> {
    /// Numbers at a place of the arena.
    fn at(&self, at: usize) -> *mut f32 {
        self.base.wrapping_add(at)
    }

    /// Pieces a layer of so many multiply-accumulates is worth.
    fn parts(&self, work: usize) -> usize {
        match self.crew.threads() {
            threads if threads > 1 && work >= WORTH_SHARING => {
                (threads * TASKS_PER_THREAD).min(work / (WORTH_SHARING / 4))
            }
            _ => 1,
        }
    }

    fn layer(&mut self, step: &Step) {
        let kernel = self.kernel;
        // SAFETY, for all kernels called here and in `product` and `depthwise`: places of a plan lie in its
        // arena and do not overlap while both are needed (`Planner::allocate`), the weights and vectors were
        // checked against the shapes (`Planner::step`), and the tasks of a layer write disjoint pieces.
        match step {
            Step::Product(p) => self.product(p),
            Step::Depthwise(d) => self.depthwise(d),
            Step::MaxPool { input, output, cell } => {
                let args = Args(MaxPool {
                    input: self.at(input.at),
                    width: input.shape.width,
                    channels: input.pixel,
                    cell: *cell,
                    output: self.at(output.at),
                    out_width: output.shape.width,
                });
                let cut = Cut::new(output.shape.height, 1, self.parts(input.shape.pixels() * input.pixel));
                // SAFETY: see above.
                self.crew.run(cut.count(), &|i| unsafe { kernel.max_pool(args.get(), cut.piece(i)) });
            }
            Step::Mean { input, output } => {
                let args = Args(Mean {
                    input: self.at(input.at),
                    pixels: input.shape.pixels(),
                    channels: input.pixel,
                    output: self.at(output.at),
                });
                let cut = Cut::new(input.pixel / LANES, 4, self.parts(input.shape.pixels() * input.pixel));
                // SAFETY: see above.
                self.crew.run(cut.count(), &|i| unsafe { kernel.mean(args.get(), cut.piece(i)) });
            }
            Step::Scale { input, by, output } => {
                let args = Args(Scale {
                    input: self.at(input.at),
                    factors: self.at(by.at),
                    channels: input.pixel,
                    output: self.at(output.at),
                });
                let cut = Cut::new(input.shape.pixels(), 1, self.parts(input.shape.pixels() * input.pixel));
                // SAFETY: see above.
                self.crew.run(cut.count(), &|i| unsafe { kernel.scale(args.get(), cut.piece(i)) });
            }
            Step::Add { a, b, output, activation } => {
                let args = Args(Add {
                    a: self.at(a.at),
                    b: self.at(b.at),
                    output: self.at(output.at),
                    activation: *activation,
                });
                let numbers = a.shape.pixels() * a.pixel;
                let cut = Cut::new(numbers / LANES, 1, self.parts(numbers));
                // SAFETY: see above.
                self.crew.run(cut.count(), &|i| unsafe { kernel.add(args.get(), cut.piece(i)) });
            }
        }
    }

    /// All groups are one job: their outputs lie apart (a multiple of a panel each), and a join for each would
    /// cost as much as a small group.
    fn product(&mut self, p: &ProductStep) {
        let (kernel, outputs) = (self.kernel, p.output.shape.channels / p.groups);
        let (all, panels) = (p.output.shape.pixels(), outputs.div_ceil(p.dense.lanes()));
        let work = p.groups * all * p.taps.0 * p.taps.1 * p.depth * outputs;
        let parts = self.parts(work).div_ceil(p.groups);
        let block = (BLOCK / p.depth / ROWS).max(1) * ROWS;
        let pixels = Cut::pixels(all, parts, all.div_ceil(block));
        // What the pixels cannot be cut into, the panels are, in fours: a tile's width.
        let panels = Cut::new(panels, 4, parts.div_ceil(pixels.count()));
        let each = pixels.count() * panels.count();
        assert!(p.groups * each <= TASKS_MAX, "{all} pixels, {} groups", p.groups);
        let base = Args(self.base);
        self.crew.run(p.groups * each, &|i| {
            let (g, i) = (i / each, i % each);
            let (x, n) = (i / panels.count(), i % panels.count());
            let args = group(*base.get(), p, g);
            // SAFETY: see `layer`.
            unsafe { kernel.product(&args, pixels.piece(x), panels.piece(n)) };
        });
    }

    fn depthwise(&mut self, d: &DepthwiseStep) {
        let args = Args(Depthwise {
            input: self.at(d.input.at),
            height: d.input.shape.height,
            width: d.input.shape.width,
            channels: d.input.pixel,
            kernel: d.kernel,
            stride: d.stride,
            padding: d.before,
            weights: d.weights.data.as_ptr(),
            weight_channels: d.weights.data.len() / (d.kernel * d.kernel),
            scale: d.epilogue.scale.as_ptr(),
            bias: d.epilogue.bias.as_ptr(),
            output: self.at(d.output.at),
            out: (d.output.shape.height, d.output.shape.width),
            activation: d.epilogue.activation,
        });
        let kernel = self.kernel;
        let work = d.output.shape.pixels() * d.output.pixel * d.kernel * d.kernel;
        let cut = Cut::new(d.output.shape.height, 1, self.parts(work));
        // SAFETY: see `layer`.
        self.crew.run(cut.count(), &|i| unsafe { kernel.depthwise(args.get(), cut.piece(i)) });
    }
}
