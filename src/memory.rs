//! Memory: the amount that this process may still take, and its distribution over weights, caches
//! and rows.
//!
//! All sizes are bytes; messages say MiB. A *position* is one position of one row in the KV cache,
//! in all layers.

use std::cmp::Reverse;
use std::fmt;
use std::fs;
use std::num::NonZeroUsize;

use sysinfo::{MemoryRefreshKind, System};

/// Returns the bytes that this process may still take: the smaller of the system's available memory
/// and the rest of its control group.
///
/// Page cache counts as available in both, because the system drops it on demand. The group is the
/// one whose files the process sees at the root of the mounted hierarchy: in a container, that of
/// the container.
#[must_use]
pub fn available_bytes() -> u64 {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    if system.total_memory() == 0 {
        return 0; // nothing can be read, and sysinfo would panic on the next line
    }
    // Not `free_memory`, which counts the group's page cache as used. `rss` is anonymous memory
    // only.
    let left_by_group = system.cgroup_limits().map(|group| group.total_memory.saturating_sub(group.rss));
    left_by_group.map_or(system.available_memory(), |left| left.min(system.available_memory()))
}

/// Returns the resident bytes of this process. `None` on other systems than Linux.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// Returns the peak of the resident bytes of this process. `None` on other systems than Linux.
#[must_use]
pub fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Returns a size from Linux' status of this process.
fn status_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let size = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = size.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// The memory to distribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// The memory of the host. A row takes only the positions that it has written, so slots may
    /// have more positions than there is memory for.
    Host,
    /// The memory of a GPU. Every slot takes all of its positions from the start.
    Gpu,
}

/// The needs to fit into memory, and the wishes of the user. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// The memory to distribute.
    pub kind: MemoryKind,
    /// The available memory: [`available_bytes`] before anything is loaded, or the free memory of
    /// the GPU.
    pub available: u64,
    /// The bundle's files, which are loaded.
    pub weights: u64,
    /// The most temporary memory: activations and buffers.
    pub working: u64,
    /// The capacity of the cache and the store of encoded images.
    pub encoded_images: u64,
    /// The capacity of the KV-prefix cache.
    pub kv_prefix_cache: u64,
    /// The bytes of one position.
    pub position_bytes: u64,
    /// The most positions of a row.
    pub max_len: NonZeroUsize,
    /// `--slots`: rows decoded together.
    pub slots: Option<NonZeroUsize>,
    /// `--kv-tokens`: positions of all rows together.
    pub kv_tokens: Option<NonZeroUsize>,
}

/// The distribution of memory. Sizes in bytes, shown in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The distributed memory.
    pub kind: MemoryKind,
    /// The bundle's files.
    pub weights: u64,
    /// The most temporary memory.
    pub working: u64,
    /// The cache and the store of encoded images, when full.
    pub encoded_images: u64,
    /// The KV-prefix cache, when full.
    pub kv_prefix_cache: u64,
    /// Rows decoded together.
    pub slots: NonZeroUsize,
    /// Positions of all rows together, at most `slots` times the longest row.
    pub kv_tokens: usize,
    /// The bytes of these positions.
    pub kv_bytes: u64,
    /// The available memory.
    pub available: u64,
    /// The sum of all items.
    pub total: u64,
}

/// The model, or a wish of the user, exceeds the available memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed_mib} MiB of {memory} are needed, but only {usable_mib} MiB may be used of {available_mib} MiB available: {items}; {remedy}"
)]
pub struct MemoryShortage {
    memory: &'static str,
    needed_mib: u64,
    usable_mib: u64,
    available_mib: u64,
    /// Largest first.
    items: String,
    remedy: String,
}

impl MemoryNeeds {
    /// The default number of slots, if there is memory for them.
    pub const DEFAULT_SLOTS: usize = 16;

    /// The positions of the shortest useful row: an image, a question and an answer.
    const SHORT_ROW: usize = 128;

    /// Distributes memory. Positions that the user asks for may take all available memory. By
    /// default the KV cache leaves a tenth free, and takes no more than its slots can use.
    ///
    /// # Errors
    /// [`MemoryShortage`] when the requested positions do not fit, or by default not even one short
    /// row.
    pub fn plan(&self) -> Result<MemoryPlan, MemoryShortage> {
        // On a GPU the size of the cache follows from slots and their length, so `--kv-tokens` does
        // not bound it.
        let may_take_all = self.kv_tokens.is_some() && self.kind == MemoryKind::Host;
        let usable = if may_take_all { self.available } else { self.available / 10 * 9 };
        let room = usable.saturating_sub(self.total(0)) / self.position_bytes.max(1);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let (slots, kv_tokens, kv_bytes) = match self.kind {
            MemoryKind::Host => {
                let (slots, tokens) = self.rows_as_written(room).map_err(|least| self.shortage(least, usable))?;
                (slots, tokens, self.kv_bytes(tokens))
            }
            MemoryKind::Gpu => {
                let slots = self.whole_rows(room).map_err(|least| self.shortage(least, usable))?;
                let positions = slots.saturating_mul(self.max_len).get();
                let tokens = self.kv_tokens.map_or(positions, |asked| asked.get().min(positions));
                (slots, tokens, self.kv_bytes(positions))
            }
        };
        Ok(MemoryPlan {
            kind: self.kind,
            weights: self.weights,
            working: self.working,
            encoded_images: self.encoded_images,
            kv_prefix_cache: self.kv_prefix_cache,
            slots,
            kv_tokens,
            kv_bytes,
            available: self.available,
            total: self.total(0).saturating_add(kv_bytes),
        })
    }

    /// Checks that everything but the KV cache fits, for memory that does not hold the decoder.
    ///
    /// # Errors
    /// [`MemoryShortage`].
    pub fn check_without_kv_cache(&self) -> Result<(), MemoryShortage> {
        let usable = self.available / 10 * 9;
        if self.total(0) > usable { Err(self.shortage(0, usable)) } else { Ok(()) }
    }

    /// Returns slots and positions if a row takes only the positions that it has written. The error
    /// is the positions in excess.
    fn rows_as_written(&self, room: usize) -> Result<(NonZeroUsize, usize), usize> {
        let short_row = self.max_len.get().min(Self::SHORT_ROW);
        let least = self.kv_tokens.map_or(short_row, NonZeroUsize::get);
        if least > room {
            return Err(least);
        }
        let tokens = self.kv_tokens.map_or(room, NonZeroUsize::get);
        let default_slots = || NonZeroUsize::new((tokens / short_row).min(Self::DEFAULT_SLOTS));
        let slots = self.slots.or_else(default_slots).unwrap_or(NonZeroUsize::MIN);
        Ok((slots, tokens.min(slots.saturating_mul(self.max_len).get())))
    }

    /// Returns slots and positions if each slot takes all of its positions. The error is the
    /// positions in excess.
    fn whole_rows(&self, room: usize) -> Result<NonZeroUsize, usize> {
        let fitting = room / self.max_len;
        let slots = self.slots.or_else(|| NonZeroUsize::new(fitting.min(Self::DEFAULT_SLOTS)));
        match slots {
            Some(slots) if slots.get() <= fitting => Ok(slots),
            _ => Err(slots.unwrap_or(NonZeroUsize::MIN).saturating_mul(self.max_len).get()),
        }
    }

    fn kv_bytes(&self, kv_tokens: usize) -> u64 {
        self.position_bytes.saturating_mul(kv_tokens as u64)
    }

    fn total(&self, kv_tokens: usize) -> u64 {
        [self.weights, self.working, self.encoded_images, self.kv_prefix_cache, self.kv_bytes(kv_tokens)]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    fn shortage(&self, kv_tokens: usize, usable: u64) -> MemoryShortage {
        let kv_cache = format!("KV cache of {kv_tokens} positions");
        let kv_flag = match self.kind {
            MemoryKind::Host => self.kv_tokens.map(|_| "--kv-tokens"),
            MemoryKind::Gpu => Some("--max-len"),
        };
        let several_slots = self.slots.is_none_or(|slots| slots.get() > 1);
        let mut items = vec![
            ("weights", self.weights, None),
            ("working memory", self.working, several_slots.then_some("--slots")),
            ("encoded images", self.encoded_images, Some("--image-cache-mib, --stored-images-mib")),
            ("KV prefix cache", self.kv_prefix_cache, Some("--kv-prefix-cache-mib")),
            (&kv_cache, self.kv_bytes(kv_tokens), kv_flag),
        ];
        items.retain(|(_, bytes, _)| *bytes > 0);
        items.sort_by_key(|(_, bytes, _)| Reverse(*bytes));
        let sizes: Vec<_> = items.iter().map(|(name, bytes, _)| format!("{name} {} MiB", mib(*bytes))).collect();
        let flags: Vec<_> = items.iter().filter_map(|(.., flag)| *flag).collect();
        MemoryShortage {
            memory: match self.kind {
                MemoryKind::Host => "memory",
                MemoryKind::Gpu => "GPU memory",
            },
            needed_mib: mib(self.total(kv_tokens)),
            usable_mib: usable >> 20,
            available_mib: self.available >> 20,
            items: sizes.join(", "),
            remedy: match flags.as_slice() {
                [] => "use a bundle of lower precision".to_owned(),
                flags => format!("lower {}, or use a bundle of lower precision", flags.join(", ")),
            },
        }
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weights {} MiB, working memory {} MiB, ", mib(self.weights), mib(self.working))?;
        write!(
            f,
            "encoded images {} MiB, KV prefix cache {} MiB, ",
            mib(self.encoded_images),
            mib(self.kv_prefix_cache)
        )?;
        write!(f, "KV cache {} MiB ({} positions in {} slots), ", mib(self.kv_bytes), self.kv_tokens, self.slots)?;
        write!(f, "together {} of {} MiB available", mib(self.total), self.available >> 20)
    }
}

/// Rounds up to MiB. Available memory is rounded down.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A model like opt-2.7b in int8, and the default caches.
    fn needs(available_mib: u64) -> MemoryNeeds {
        MemoryNeeds {
            kind: MemoryKind::Host,
            available: available_mib * MIB,
            weights: 3900 * MIB,
            working: 300 * MIB,
            encoded_images: 64 * MIB,
            kv_prefix_cache: 256 * MIB,
            position_bytes: 640 << 10,
            max_len: some(2048).unwrap(),
            slots: None,
            kv_tokens: None,
        }
    }

    fn some(number: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(number)
    }

    #[test]
    fn with_much_memory_every_slot_can_be_full() {
        let plan = needs(64 << 10).plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens), (16, 16 * 2048));
        assert_eq!(plan.kv_bytes, 16 * 2048 * (640 << 10));
    }

    #[test]
    fn the_kv_cache_takes_what_is_left_of_nine_tenths() {
        let plan = needs(10_000).plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens), (16, (9000 - 4520) * 1024 / 640));
        assert_eq!(plan.total, 9000 * MIB);
    }

    #[test]
    fn with_little_memory_there_are_fewer_slots() {
        let plan = needs(5400).plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens), (4, 544));
    }

    #[test]
    fn a_model_of_short_rows_needs_memory_for_one_of_them_only() {
        let least = MemoryNeeds { max_len: some(64).unwrap(), ..needs(5067) };
        assert_eq!(least.plan().unwrap().kv_tokens, 64);
        assert!(needs(5067).plan().is_err());
    }

    #[test]
    fn wishes_are_kept() {
        let wishes = MemoryNeeds { slots: some(3), kv_tokens: some(1000), ..needs(10_000) };
        let plan = wishes.plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens), (3, 1000));
        let plan = MemoryNeeds { slots: some(2), ..needs(20_000) }.plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens), (2, 2 * 2048));
        let plan = MemoryNeeds { kv_tokens: some(300), ..needs(10_000) }.plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens), (2, 300));
        let plan = MemoryNeeds { kv_tokens: some(10), ..needs(10_000) }.plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens), (1, 10));
    }

    #[test]
    fn no_more_positions_are_planned_than_the_slots_can_hold() {
        let plan = MemoryNeeds { slots: some(1), kv_tokens: some(3000), ..needs(10_000) }.plan().unwrap();
        assert_eq!(plan.kv_tokens, 2048);
    }

    #[test]
    fn positions_that_are_asked_for_may_take_the_last_tenth_but_no_more() {
        let asked = |positions| MemoryNeeds { kv_tokens: some(positions), ..needs(5000) };
        assert_eq!(asked(768).plan().unwrap().total, 5000 * MIB);
        assert_eq!(
            asked(769).plan().unwrap_err().to_string(),
            "5001 MiB of memory are needed, but only 5000 MiB may be used of 5000 MiB available: weights 3900 MiB, KV cache of 769 \
             positions 481 MiB, working memory 300 MiB, KV prefix cache 256 MiB, encoded images 64 MiB; lower --kv-tokens, \
             --slots, --kv-prefix-cache-mib, --image-cache-mib, --stored-images-mib, or use a bundle of lower precision"
        );
    }

    #[test]
    fn a_model_that_leaves_no_room_for_a_short_row_is_an_error_with_the_remedies_that_are_left() {
        let bare = MemoryNeeds { slots: some(1), encoded_images: 0, kv_prefix_cache: 0, ..needs(4700) };
        assert_eq!(
            bare.plan().unwrap_err().to_string(),
            "4280 MiB of memory are needed, but only 4230 MiB may be used of 4700 MiB available: weights 3900 MiB, working memory \
             300 MiB, KV cache of 128 positions 80 MiB; use a bundle of lower precision"
        );
    }

    #[test]
    fn a_plan_says_what_takes_how_much() {
        let plan = MemoryNeeds { kv_tokens: some(3277), ..needs(22_000) }.plan().unwrap();
        assert_eq!(
            plan.to_string(),
            "weights 3900 MiB, working memory 300 MiB, encoded images 64 MiB, KV prefix cache 256 MiB, KV cache 2049 MiB \
             (3277 positions in 16 slots), together 6569 of 22000 MiB available"
        );
    }

    /// The same in f16 on a GPU.
    fn gpu_needs(available_mib: u64) -> MemoryNeeds {
        MemoryNeeds {
            kind: MemoryKind::Gpu,
            weights: 7300 * MIB,
            working: 1024 * MIB,
            position_bytes: 320 << 10,
            ..needs(available_mib)
        }
    }

    #[test]
    fn on_a_gpu_every_slot_takes_all_of_its_positions() {
        let plan = gpu_needs(80_000).plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_tokens, plan.kv_bytes), (16, 16 * 2048, 16 * 640 * MIB));
        let plan = gpu_needs(16_000).plan().unwrap();
        assert_eq!((plan.slots.get(), plan.kv_bytes), (8, 8 * 640 * MIB)); // (14400 - 8644) / 640
        let plan = MemoryNeeds { kv_tokens: some(5000), slots: some(4), ..gpu_needs(80_000) }.plan().unwrap();
        assert_eq!((plan.kv_tokens, plan.kv_bytes), (5000, 4 * 640 * MIB));
    }

    #[test]
    fn a_gpu_too_small_says_so_and_that_shorter_rows_would_help() {
        let error = gpu_needs(10_000).plan().unwrap_err().to_string();
        assert!(
            error.starts_with("9284 MiB of GPU memory are needed, but only 9000 MiB may be used")
                && error.contains("--max-len"),
            "{error}"
        );
        let error = MemoryNeeds { slots: some(200), ..gpu_needs(80_000) }.plan().unwrap_err().to_string();
        assert!(error.contains("--slots"), "{error}");
        assert!(gpu_needs(10_000).check_without_kv_cache().is_ok());
        assert!(gpu_needs(9_000).check_without_kv_cache().is_err());
    }

    proptest! {
        #[test]
        fn a_plan_never_exceeds_what_is_available(
            sizes in prop::array::uniform6(prop_oneof![0..10_000_u64, any::<u64>()]),
            max_len in 1..=usize::MAX,
            slots in prop::option::of(1..=usize::MAX),
            kv_tokens in prop::option::of(1..=usize::MAX),
            is_gpu in any::<bool>(),
        ) {
            let [available, weights, working, encoded_images, kv_prefix_cache, position_bytes] = sizes;
            let needs = MemoryNeeds {
                kind: if is_gpu { MemoryKind::Gpu } else { MemoryKind::Host },
                available, weights, working, encoded_images, kv_prefix_cache, position_bytes,
                max_len: some(max_len).unwrap(),
                slots: slots.and_then(some),
                kv_tokens: kv_tokens.and_then(some),
            };
            match needs.plan() {
                Ok(plan) => {
                    prop_assert!(plan.total <= available);
                    prop_assert!(plan.kv_tokens >= 1);
                    prop_assert!(plan.kv_tokens <= plan.slots.get().saturating_mul(max_len));
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }

    #[test]
    fn the_system_says_what_may_be_taken_and_what_is() {
        assert!(available_bytes() > MIB);
        if cfg!(target_os = "linux") {
            assert!(resident_bytes().unwrap() > MIB);
        }
    }
}
