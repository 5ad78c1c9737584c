//! Images to run: Fashion-MNIST's IDX files, or a folder of pictures.
//!
//! Responsible for: reading them whole, and refusing what does not fit the network with file, value and
//! rule. Not responsible for: when they arrive ([`crate::stream`]).

use flate2::read::GzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes that a data file may unpack to.
const BYTES_MAX: u64 = 512 << 20;

/// Images of one size, and what they show where that is known.
#[derive(Debug)]
pub struct Images {
    pixels: Vec<u8>,
    labels: Option<Vec<u8>>,
    size: usize,
}

/// Why data is refused.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read, or its compression is broken.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {rule}", path.display())]
    Rule {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and the rule.
        rule: String,
    },
}

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// 60,000 images.
    Train,
    /// 10,000 images, which training never sees.
    Test,
}

impl Images {
    /// A split of Fashion-MNIST (or of anything laid out like it) from its gzipped IDX files.
    pub fn from_idx(
        folder: &Path,
        split: Split,
        (height, width, channels): (usize, usize, usize),
    ) -> Result<Self, DataError> {
        let stem = if split == Split::Train { "train" } else { "t10k" };
        let images = folder.join(format!("{stem}-images-idx3-ubyte.gz"));
        let labels = folder.join(format!("{stem}-labels-idx1-ubyte.gz"));
        if channels != 1 {
            return Err(refuse(&images, format!("gray images; the network takes {channels} channels")));
        }
        let (dims, pixels) = read_idx(&images, 3)?;
        if dims[1..] != [height, width] {
            return Err(refuse(
                &images,
                format!("images of {} x {}; the network takes {height} x {width}", dims[1], dims[2]),
            ));
        }
        let (count, classes) = read_idx(&labels, 1)?;
        if count[0] != dims[0] {
            return Err(refuse(&labels, format!("{} labels for {} images; one each", count[0], dims[0])));
        }
        if dims[0] == 0 {
            return Err(refuse(&images, "no images; at least one".into()));
        }
        Ok(Self { pixels, labels: Some(classes), size: height * width * channels })
    }

    /// All JPEG, PNG, PGM and PPM files of a folder, by name; 8-bit gray or colour as the network takes (or what converts to it), unlabelled.
    pub fn from_folder(
        folder: &Path,
        (height, width, channels): (usize, usize, usize),
    ) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Read { path: folder.to_owned(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|e| {
                ["jpg", "jpeg", "png", "pgm", "ppm"].iter().any(|known| e.eq_ignore_ascii_case(known))
            }) {
                files.push(path);
            }
        }
        files.sort();
        let mut pixels = Vec::with_capacity(files.len() * height * width * channels);
        for file in &files {
            let mut reader = image::ImageReader::open(file)
                .and_then(image::ImageReader::with_guessed_format)
                .map_err(|source| DataError::Read { path: file.clone(), source })?;
            let mut limits = image::Limits::default();
            limits.max_alloc = Some(64 << 20);
            reader.limits(limits);
            let picture = reader.decode().map_err(|e| refuse(file, e.to_string()))?;
            if (picture.height() as usize, picture.width() as usize) != (height, width) {
                let (h, w) = (picture.height(), picture.width());
                return Err(refuse(file, format!("{h} x {w}; the network takes {height} x {width}")));
            }
            if channels == 1 {
                pixels.extend_from_slice(picture.to_luma8().as_raw());
            } else {
                pixels.extend_from_slice(picture.to_rgb8().as_raw());
            }
        }
        if files.is_empty() {
            return Err(refuse(folder, "no .jpg, .png, .pgm or .ppm file; at least one".into()));
        }
        Ok(Self { pixels, labels: None, size: height * width * channels })
    }

    /// How many; never 0.
    pub fn count(&self) -> usize {
        self.pixels.len() / self.size
    }

    /// The image at `at`, going round at the end.
    pub fn get(&self, at: u64) -> (&[u8], Option<u8>) {
        let at = usize::try_from(at % self.count() as u64).expect("below the count");
        (&self.pixels[at * self.size..(at + 1) * self.size], self.labels.as_ref().map(|l| l[at]))
    }
}

fn refuse(path: &Path, rule: String) -> DataError {
    DataError::Rule { path: path.to_owned(), rule }
}

/// The dimensions and bytes of a gzipped IDX file.
fn read_idx(path: &Path, dimensions: u8) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let file = File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    parse_idx(BufReader::new(file), dimensions, path)
}

/// The dimensions and bytes of gzipped IDX data of unsigned bytes
/// (<http://yann.lecun.com/exdb/mnist/>: magic 0, 0, type, dimensions; sizes; data; big-endian). `path` is for errors.
pub fn parse_idx(from: impl Read, dimensions: u8, path: &Path) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let unreadable = |source| DataError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    GzDecoder::new(from).take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(refuse(path, format!("unpacks to more than {BYTES_MAX} bytes")));
    }
    let header = 4 + 4 * usize::from(dimensions);
    let magic = [0, 0, 8, dimensions];
    if bytes.len() < header || bytes[..4] != magic {
        let found = &bytes[..bytes.len().min(4)];
        return Err(refuse(path, format!("begins with {found:?}; an IDX file of this kind with {magic:?}")));
    }
    let (sizes, _) = bytes[4..header].as_chunks::<4>();
    let sizes: Vec<usize> = sizes.iter().map(|s| u32::from_be_bytes(*s) as usize).collect();
    let expected = sizes.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
    if expected != Some(bytes.len() - header) {
        return Err(refuse(path, format!("{} bytes of data for dimensions {sizes:?}", bytes.len() - header)));
    }
    bytes.drain(..header);
    Ok((sizes, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gz(path: &Path, bytes: &[u8]) {
        let mut out = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap();
    }

    /// Two images of 2 x 3 and their labels.
    fn lay(images: &[u8], labels: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        gz(&dir.path().join("t10k-images-idx3-ubyte.gz"), images);
        gz(&dir.path().join("t10k-labels-idx1-ubyte.gz"), labels);
        dir
    }
    const IMAGES: [u8; 28] =
        [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const LABELS: [u8; 10] = [0, 0, 8, 1, 0, 0, 0, 2, 4, 7];

    fn refused(images: &[u8], labels: &[u8]) -> String {
        let dir = lay(images, labels);
        Images::from_idx(dir.path(), Split::Test, (2, 3, 1)).unwrap_err().to_string()
    }

    #[test]
    fn idx_files_are_read_and_go_round() {
        let dir = lay(&IMAGES, &LABELS);
        let images = Images::from_idx(dir.path(), Split::Test, (2, 3, 1)).unwrap();
        assert_eq!(images.count(), 2);
        assert_eq!(images.get(0), (&[1, 2, 3, 4, 5, 6][..], Some(4)));
        assert_eq!(images.get(3), (&[7, 8, 9, 10, 11, 12][..], Some(7)));
    }

    #[test]
    fn broken_idx_files_are_refused_with_the_rule() {
        assert!(refused(&IMAGES[..27], &LABELS).contains("images-idx3-ubyte.gz: 11 bytes of data"));
        assert!(refused(&LABELS, &LABELS).contains("begins with [0, 0, 8, 1]"));
        assert!(refused(&IMAGES, &LABELS[..3]).contains("begins with [0, 0, 8]"));
        let one = [0, 0, 8, 1, 0, 0, 0, 1, 4];
        assert!(refused(&IMAGES, &one).contains("1 labels for 2 images"));
        let huge = [0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255];
        assert!(refused(&huge, &LABELS).contains("0 bytes of data"));
    }

    #[test]
    fn a_file_cut_short_in_its_compression_is_refused() {
        let dir = lay(&IMAGES, &LABELS);
        let path = dir.path().join("t10k-images-idx3-ubyte.gz");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        let error = Images::from_idx(dir.path(), Split::Test, (2, 3, 1)).unwrap_err();
        assert!(matches!(error, DataError::Read { .. }), "{error}");
    }

    #[test]
    fn images_of_another_size_than_the_network_takes_are_refused() {
        let dir = lay(&IMAGES, &LABELS);
        let error = Images::from_idx(dir.path(), Split::Test, (28, 28, 1)).unwrap_err().to_string();
        assert!(error.contains("images of 2 x 3; the network takes 28 x 28"), "{error}");
    }

    #[test]
    fn a_folder_is_read_by_name_as_grayscale() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.pgm"), b"P5 3 2 255\n\x01\x02\x03\x04\x05\x06").unwrap();
        image::GrayImage::from_raw(3, 2, vec![9; 6]).unwrap().save(dir.path().join("a.png")).unwrap();
        std::fs::write(dir.path().join("notes.txt"), b"no picture").unwrap();
        let images = Images::from_folder(dir.path(), (2, 3, 1)).unwrap();
        assert_eq!(images.count(), 2);
        assert_eq!(images.get(0), (&[9; 6][..], None));
        assert_eq!(images.get(1), (&[1, 2, 3, 4, 5, 6][..], None));
        // The same in colour: gray goes to all three channels.
        let images = Images::from_folder(dir.path(), (2, 3, 3)).unwrap();
        assert_eq!(&images.get(1).0[..6], &[1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn a_folder_with_a_wrong_picture_or_none_is_refused_with_the_rule() {
        let dir = tempfile::tempdir().unwrap();
        let refused = || Images::from_folder(dir.path(), (28, 28, 1)).unwrap_err().to_string();
        assert!(refused().contains("no .jpg, .png, .pgm or .ppm file"));
        let file = dir.path().join("x.pgm");
        std::fs::write(&file, b"P5 3 2 255\n\x01\x02\x03\x04\x05\x06").unwrap();
        assert!(refused().contains("x.pgm: 2 x 3; the network takes 28 x 28"));
        std::fs::write(&file, b"P5 3 2 255\n\x01").unwrap();
        assert!(refused().contains("x.pgm: "));
        std::fs::write(&file, b"P5 30000000 20000000 255\n\x01").unwrap();
        assert!(refused().contains("x.pgm: "));
    }
}
