//! The elastic engine behind the [`Engine`] trait: one packed weight set, all plans kept.

use super::exec::{Arena, Crew};
use super::plan::Plan;
use super::store::Store;
use super::{Engine, Worker};
use crate::image::{Images, Rows};
use crate::kernel::Kernel;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Shared by all threads, never changed.
#[derive(Debug)]
struct Shared {
    store: Store,
    plans: Vec<Plan>,
    rows: Vec<Rows>,
}

/// All sub-networks of one weight set.
#[derive(Clone, Debug)]
pub struct Elastic(Arc<Shared>);

/// One thread's arena.
#[derive(Debug)]
struct Bench {
    shared: Arc<Shared>,
    arena: Arena,
    kernel: Kernel,
}

impl Elastic {
    /// For images of `images`.
    pub fn new(store: Store, plans: Vec<Plan>, images: &Images) -> Self {
        let rows = plans.iter().map(|p| images.rows(p.image().height, p.image().width)).collect();
        Self(Arc::new(Shared { store, plans, rows }))
    }

    /// Of each sub-network.
    pub fn plans(&self) -> &[Plan] {
        &self.0.plans
    }

    /// The packed weights.
    pub fn store(&self) -> &Store {
        &self.0.store
    }
}

impl Engine for Elastic {
    fn name(&self, kernel: Kernel) -> &'static str {
        kernel.name()
    }

    fn worker(&self, kernel: Kernel) -> Result<Box<dyn Worker>, String> {
        Ok(Box::new(Bench { arena: Arena::new(&self.0.plans), shared: Arc::clone(&self.0), kernel }))
    }

    fn elastic(&self) -> Option<&Self> {
        Some(self)
    }

    fn layers(&self, subnet: usize) -> usize {
        self.0.plans[subnet].layers()
    }

    fn bytes(&self) -> Option<usize> {
        Some(self.0.store.bytes() + self.0.plans.iter().map(Plan::bytes).sum::<usize>())
    }
}

impl Worker for Bench {
    fn run(
        &mut self,
        subnet: usize,
        image: &[u8],
        crew: &mut Crew<'_>,
        go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<&[f32]>, String> {
        let (plan, rows) = (&self.shared.plans[subnet], &self.shared.rows[subnet]);
        plan.lay_image(&mut self.arena, |y, to| rows.lay(image, y, to));
        let end = plan.run(0..plan.layers(), &mut self.arena, self.kernel, crew, go_on);
        Ok(end.is_continue().then(|| plan.logits(&self.arena)))
    }
}
