//! The orientation in metadata: tag 274 of IFD0 in an EXIF block, else `tiff:Orientation` in XMP,
//! as Pillow reads it. Broken metadata means no orientation, not an error.

/// EXIF orientation, 1 (upright) to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation(u8);

impl Orientation {
    /// The image is upright.
    pub(super) const UPRIGHT: Self = Self(1);

    /// Returns the number of the EXIF standard, 1 to 8.
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// Takes a number of the EXIF standard. Others than 1 to 8 mean upright.
    pub(super) fn from_number(number: u64) -> Self {
        match u8::try_from(number) {
            Ok(number @ 1..=8) => Self(number),
            _ => Self::UPRIGHT,
        }
    }

    /// Reads an EXIF block and an XMP packet. XMP counts only if EXIF holds no orientation.
    pub(super) fn from_metadata(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Self {
        exif.and_then(exif_orientation)
            .or_else(|| xmp.and_then(xmp_orientation))
            .map_or(Self::UPRIGHT, Self::from_number)
    }
}

const ORIENTATION_TAG: u16 = 274;

fn exif_orientation(mut exif: &[u8]) -> Option<u64> {
    while let Some(rest) = exif.strip_prefix(b"Exif\0\0") {
        exif = rest;
    }
    Ifd::first_of(exif)?.number(ORIENTATION_TAG)
}

fn xmp_orientation(xmp: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"tiff:Orientation";
    xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).find_map(|(at, _)| {
        let rest = xmp.get(at + NAME.len()..)?;
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        value.first().filter(|digit| digit.is_ascii_digit()).map(|digit| u64::from(digit - b'0'))
    })
}

/// The first directory of a classic TIFF structure, which an EXIF block and a TIFF file share.
pub(super) struct Ifd<'a> {
    data: &'a [u8],
    big_endian: bool,
    /// 12 bytes for each entry.
    entries: &'a [u8],
}

impl<'a> Ifd<'a> {
    /// Returns the first directory. `None` if the header is not that of a classic TIFF structure,
    /// or the directory lies outside the data.
    pub(super) fn first_of(data: &'a [u8]) -> Option<Self> {
        let big_endian = match data {
            [b'I', b'I', 42, 0, ..] => false,
            [b'M', b'M', 0, 42, ..] => true,
            _ => return None,
        };
        let mut ifd = Self { data, big_endian, entries: &[] };
        let start = usize::try_from(ifd.unsigned(data.get(4..8)?)).ok()?;
        let count = usize::try_from(ifd.unsigned(data.get(start..start.checked_add(2)?)?)).ok()?;
        let entries = data.get(start + 2..)?;
        ifd.entries = &entries[..entries.len().min(count * 12)];
        Some(ifd)
    }

    /// Returns the value of a tag with one unsigned number.
    pub(super) fn number(&self, tag: u16) -> Option<u64> {
        self.numbers(tag).filter(|values| values.len() == 1).map(|values| values[0])
    }

    /// Returns the values of a tag of unsigned numbers, at most 64. Of several entries the first
    /// that can be read counts, as in Pillow 13.
    pub(super) fn numbers(&self, tag: u16) -> Option<Vec<u64>> {
        let (entries, _) = self.entries.as_chunks::<12>();
        let mut of_tag = entries.iter().filter(|entry| self.unsigned(&entry[..2]) == u64::from(tag));
        of_tag.find_map(|entry| self.values(entry))
    }

    fn values(&self, entry: &[u8; 12]) -> Option<Vec<u64>> {
        let size = match self.unsigned(&entry[2..4]) {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => return None,
        };
        let len = usize::try_from(self.unsigned(&entry[4..8])).ok()?.checked_mul(size)?;
        let bytes = if len <= 4 {
            &entry[8..8 + len]
        } else {
            let at = usize::try_from(self.unsigned(&entry[8..12])).ok()?;
            self.data.get(at..at.checked_add(len)?)?
        };
        let values: Vec<u64> = bytes.chunks_exact(size).take(64).map(|value| self.unsigned(value)).collect();
        (!values.is_empty()).then_some(values)
    }

    fn unsigned(&self, bytes: &[u8]) -> u64 {
        let fold = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LITTLE: &[u8] = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    const BIG: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0";

    #[test]
    fn both_byte_orders_are_read() {
        assert_eq!(Orientation::from_metadata(Some(LITTLE), None).number(), 6);
        assert_eq!(Orientation::from_metadata(Some(BIG), None).number(), 8);
    }

    /// An EXIF block whose directory holds one orientation entry for each number.
    fn exif(orientations: &[u8]) -> Vec<u8> {
        let mut block = b"II*\0\x08\0\0\0".to_vec();
        block.extend_from_slice(&(orientations.len() as u16).to_le_bytes());
        for orientation in orientations {
            block.extend_from_slice(b"\x12\x01\x03\0\x01\0\0\0");
            block.extend_from_slice(&[*orientation, 0, 0, 0]);
        }
        block
    }

    /// As `Image.Exif` of Pillow 13 reads these blocks.
    #[test]
    fn first_of_several_equal_tags_counts() {
        for (orientations, expected) in [(vec![6], 6), (vec![3, 6], 3), (vec![6, 3], 6), (vec![8, 3, 6], 8)] {
            assert_eq!(
                Orientation::from_metadata(Some(&exif(&orientations)), None).number(),
                expected,
                "{orientations:?}"
            );
        }
    }

    #[test]
    fn equal_tags_that_cannot_be_read_are_skipped() {
        for (place, byte) in [(12, 0xEE), (14, 0), (17, 0xFF)] {
            let mut block = exif(&[3, 6]);
            block[place] = byte; // an unknown type, no value, far more values than there are bytes
            assert_eq!(Orientation::from_metadata(Some(&block), None).number(), 6, "byte {place}");
        }
    }

    #[test]
    fn truncated_and_flipped_blocks_give_an_orientation_of_the_standard() {
        let standard = 1..=8;
        for length in 0..LITTLE.len() {
            let number = Orientation::from_metadata(Some(&LITTLE[..length]), None).number();
            assert!(standard.contains(&number), "{number} from {length} bytes");
        }
        for at in 0..BIG.len() {
            let mut bytes = BIG.to_vec();
            bytes[at] ^= 0xFF;
            let number = Orientation::from_metadata(Some(&bytes), None).number();
            assert!(standard.contains(&number), "{number} with byte {at} flipped");
        }
    }

    #[test]
    fn xmp_counts_only_without_exif_orientation() {
        let attribute: &[u8] = b"<rdf tiff:Orientation=\"3\"/>";
        let element: &[u8] = b"<tiff:Orientation>5</tiff:Orientation>";
        assert_eq!(Orientation::from_metadata(None, Some(attribute)).number(), 3);
        assert_eq!(Orientation::from_metadata(Some(b"junk"), Some(element)).number(), 5);
        assert_eq!(Orientation::from_metadata(Some(LITTLE), Some(attribute)).number(), 6);
    }

    #[test]
    fn numbers_outside_the_standard_mean_upright() {
        for number in [0, 9, 255, u64::MAX] {
            assert_eq!(Orientation::from_number(number), Orientation::UPRIGHT);
        }
    }
}
