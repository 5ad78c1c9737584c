//! From an image's bytes to the numbers a network takes.
//!
//! Responsible for: normalisation, and sampling at the size that a sub-network works on (bilinear at
//! pixel centres, without antialiasing: the half-pixel convention of PyTorch's
//! `interpolate(align_corners=False)`), both prepared once.

use crate::manifest::Input;

/// The images of one network.
#[derive(Clone, Debug)]
pub struct Images {
    /// Rows, columns, channels.
    pub size: (usize, usize, usize),
    /// What each value of a channel becomes.
    table: Vec<[f32; 256]>,
}

/// How an image becomes rows of one size.
#[derive(Clone, Debug)]
pub struct Rows {
    images: Images,
    /// `None`: the size is the image's own.
    samples: Option<(Vec<Sample>, Vec<Sample>)>,
}

/// Between which two pixels a sample lies, and how far behind the first.
#[derive(Clone, Copy, Debug)]
struct Sample {
    first: usize,
    second: usize,
    part: f32,
}

impl Images {
    /// As the manifest says.
    pub fn new(input: &Input) -> Self {
        let table = (0..input.channels).map(|c| {
            let (mean, std) = (input.mean.of(c).unwrap_or(0.0), input.std.of(c).unwrap_or(1.0));
            std::array::from_fn(|v| (f32::from(u8::try_from(v).expect("below 256")) / 255.0 - mean) / std)
        });
        Self { size: (input.height, input.width, input.channels), table: table.collect() }
    }

    /// For a sub-network that works on so many rows and columns.
    pub fn rows(&self, height: usize, width: usize) -> Rows {
        let same = (height, width) == (self.size.0, self.size.1);
        let samples = (!same).then(|| (samples(self.size.0, height), samples(self.size.1, width)));
        Rows { images: self.clone(), samples }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sides of images, and never below 0"
)]
fn samples(from: usize, to: usize) -> Vec<Sample> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (at as usize).min(from - 1);
            Sample { first, second: (first + 1).min(from - 1), part: at - first as f32 }
        })
        .collect()
}

impl Rows {
    /// Row `y`, the channels of a pixel together.
    pub fn lay(&self, image: &[u8], y: usize, to: &mut [f32]) {
        let (_, width, n) = self.images.size;
        let (length, table) = (width * n, &self.images.table);
        let Some((rows, columns)) = &self.samples else {
            let row = &image[y * length..][..length];
            for (to, from) in to.chunks_exact_mut(n).zip(row.chunks_exact(n)) {
                for ((to, from), table) in to.iter_mut().zip(from).zip(table) {
                    *to = table[usize::from(*from)];
                }
            }
            return;
        };
        let r = rows[y];
        let (above, below) = (&image[r.first * length..][..length], &image[r.second * length..][..length]);
        for (s, to) in columns.iter().zip(to.chunks_exact_mut(n)) {
            for ((c, to), table) in to.iter_mut().enumerate().zip(table) {
                let across = |row: &[u8]| {
                    let value = |x: usize| table[usize::from(row[x * n + c])];
                    let (a, b) = (value(s.first), value(s.second));
                    a + (b - a) * s.part
                };
                let (a, b) = (across(above), across(below));
                *to = a + (b - a) * r.part;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_lie_at_pixel_centres() {
        // torch.nn.functional.interpolate([[0, 10, 20, 30]], size=(1, 2) and (1, 3), mode="bilinear"), by hand:
        // scale 2: at 0.5 and 2.5; scale 4/3: at 1/6, 1.5, 2 5/6.
        let table = vec![std::array::from_fn(|v| f32::from(u8::try_from(v).unwrap()))];
        let images = Images { size: (1, 4, 1), table };
        for (to, expected) in [(2, vec![5.0, 25.0]), (3, vec![10.0 / 6.0, 15.0, 28.333_334])] {
            let mut row = vec![0.0; to];
            images.rows(1, to).lay(&[0, 10, 20, 30], 0, &mut row);
            assert!(row.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "{row:?}");
        }
    }
}
