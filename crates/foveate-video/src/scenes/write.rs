//! Scenes as files: videos, question records, cells, and text-only look-ups.

use std::path::{Path, PathBuf};

use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::generate::stream;
use super::words::{choice_families, lettered, options};
use crate::VideoError;
use crate::files::write_atomic;

/// One line of a record file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SceneRecord {
    /// "train-00017".
    pub id: String,
    /// The video's file relative to the record file; none for a text-only record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<String>,
    /// The question.
    pub question: String,
    /// Options such as "A.red".
    pub options: Vec<String>,
    /// Right letters such as "B" or "A,C"; empty for a look-up.
    pub answer: String,
    /// Completion that the cold start is taught.
    pub target: String,
    /// [`Kind`](super::Kind)'s word, or "lookup".
    pub kind: String,
    /// When the event happens, seconds.
    pub spans: Vec<[f64; 2]>,
    /// "scenes".
    pub source: String,
    /// [`Split`](super::Split)'s word.
    pub split: String,
}

/// Where a set was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The records, `DIR/SPLIT.jsonl`.
    pub records: PathBuf,
    /// What each quadrant shows, `DIR/SPLIT.cells.jsonl`: `{"id": .., "cells": [grids][4]}`; see
    /// [`Scene::cells`](super::Scene::cells). Not of long scenes.
    pub cells: PathBuf,
    /// Whether everything was there already.
    pub reused: bool,
}

/// Writes `DIR/lookup.jsonl`: `count` text-only records that ask nothing but which word has which letter, and returns
/// its path. The question is four options, the target names all four in random order.
///
/// # Errors
/// [`VideoError::Io`] if the disk refuses.
pub fn write_lookup(dir: &Path, seed: u64, count: usize) -> Result<PathBuf, VideoError> {
    let path = dir.join("lookup.jsonl");
    let records: Vec<SceneRecord> = (0..count).map(|index| lookup(seed, index)).collect();
    write_lines(&path, &records)?;
    Ok(path)
}

fn lookup(seed: u64, index: usize) -> SceneRecord {
    let mut rng = stream(seed, "lookup", index);
    let families = choice_families();
    let mut choices = families[rng.random_range(0..families.len())].clone();
    choices.shuffle(&mut rng);
    choices.truncate(4);
    let mut named = choices.clone();
    named.shuffle(&mut rng);
    let named: Vec<String> = named.iter().map(|word| lettered(word, &choices)).collect();
    SceneRecord {
        id: format!("lookup-{index:05}"),
        video: None,
        question: options(&choices).join(" "),
        options: Vec::new(),
        answer: String::new(),
        target: format!("so {}", named.join(" ")),
        kind: "lookup".to_owned(),
        spans: Vec::new(),
        source: "scenes".to_owned(),
        split: "sft".to_owned(),
    }
}

fn write_lines<T: Serialize>(path: &Path, items: &[T]) -> Result<(), VideoError> {
    let mut text = Vec::new();
    for item in items {
        serde_json::to_writer(&mut text, item)
            .map_err(|e| VideoError::BadFile { path: path.to_owned(), reason: e.to_string() })?;
        text.push(b'\n');
    }
    write_atomic(path, &text)
}

#[cfg(feature = "decode")]
pub use videos::{write, write_long};

#[cfg(feature = "decode")]
mod videos {
    use std::collections::BTreeMap;
    use std::fs::{self, File};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use image::RgbImage;
    use rayon::prelude::*;

    use super::super::encode::encode;
    use super::super::{Cell, LongScene, LongSpec, Scene, SceneSpec};
    use super::{Path, SceneRecord, Serialize, VideoError, Written, write_atomic, write_lines};
    use crate::files::intended_name;

    /// Changes when the same spec would give other files.
    const VERSION: u32 = 3;
    const MANIFEST: &str = "scenes.json";
    const VIDEOS: &str = "videos";
    const LOCK: &str = ".scenes.lock";

    #[derive(Serialize)]
    struct CellsLine {
        id: String,
        cells: Vec<[Cell; 4]>,
    }

    /// A video and what is asked about it.
    trait Take: Sync {
        /// The video's name.
        fn id(&self) -> &str;

        /// Its frames.
        fn frames(&self) -> Vec<RgbImage>;

        /// Its questions; video, source and split are filled in.
        fn records(&self) -> Vec<SceneRecord>;

        /// What each quadrant of each temporal grid shows, if that is told.
        fn cells(&self) -> Option<Vec<[Cell; 4]>> {
            None
        }
    }

    impl Take for Scene {
        fn id(&self) -> &str {
            &self.id
        }

        fn frames(&self) -> Vec<RgbImage> {
            Self::frames(self)
        }

        fn records(&self) -> Vec<SceneRecord> {
            vec![SceneRecord {
                id: self.id.clone(),
                question: self.question.clone(),
                options: self.options.clone(),
                answer: self.answer.clone(),
                target: self.target.clone(),
                kind: self.kind.word().to_owned(),
                spans: self.spans.clone(),
                ..SceneRecord::default()
            }]
        }

        fn cells(&self) -> Option<Vec<[Cell; 4]>> {
            Some(Self::cells(self))
        }
    }

    impl Take for LongScene {
        fn id(&self) -> &str {
            &self.id
        }

        fn frames(&self) -> Vec<RgbImage> {
            self.images()
        }

        fn records(&self) -> Vec<SceneRecord> {
            Self::records(self)
        }
    }

    /// Writes a set: `DIR/videos/SPLIT-NNNNN.mp4`, `DIR/SPLIT.jsonl` and `DIR/SPLIT.cells.jsonl`.
    ///
    /// `DIR/scenes.json` keeps a hash of each split's spec: when it matches and the files are there, nothing is made;
    /// otherwise the split is made anew. `progress` is told the number of scenes done, from several threads. A second
    /// process that wants to make scenes in `DIR` waits for the first (on `DIR/.scenes.lock`) and then looks again.
    ///
    /// # Errors
    /// [`VideoError::Encode`] if FFmpeg cannot encode H.264, [`VideoError::Io`] if the disk refuses.
    pub fn write(dir: &Path, spec: &SceneSpec, progress: &(dyn Fn(usize) + Sync)) -> Result<Written, VideoError> {
        let scenes: Vec<Scene> = (0..spec.count).into_par_iter().map(|index| spec.scene(index)).collect();
        Set { dir, split: spec.split.word(), hash: hash(spec, dir)?, takes: &scenes }.write(progress)
    }

    /// Writes a set of long scenes, as [`write()`] does; there are no cells.
    ///
    /// # Errors
    /// As [`write()`].
    pub fn write_long(dir: &Path, spec: &LongSpec, progress: &(dyn Fn(usize) + Sync)) -> Result<Written, VideoError> {
        let scenes: Vec<LongScene> = (0..spec.count).into_par_iter().map(|index| spec.scene(index)).collect();
        Set { dir, split: spec.split.word(), hash: hash(spec, dir)?, takes: &scenes }.write(progress)
    }

    /// A set that is to be there.
    struct Set<'a, T> {
        dir: &'a Path,
        split: &'a str,
        hash: String,
        takes: &'a [T],
    }

    impl<T: Take> Set<'_, T> {
        fn write(&self, progress: &(dyn Fn(usize) + Sync)) -> Result<Written, VideoError> {
            let (dir, split) = (self.dir, self.split);
            let paths = (dir.join(format!("{split}.jsonl")), dir.join(format!("{split}.cells.jsonl")));
            let cells: Vec<_> = self.takes.iter().filter_map(cells_line).collect();
            let manifest_path = dir.join(MANIFEST);
            let complete = || {
                let there = paths.0.exists() && (cells.is_empty() || paths.1.exists());
                there
                    && self.takes.iter().all(|take| dir.join(video(take)).exists())
                    && read_manifest(&manifest_path).get(split) == Some(&self.hash)
            };
            let reused = || Written { records: paths.0.clone(), cells: paths.1.clone(), reused: true };
            // Before the lock, too: a set that is there may lie on a disk that cannot be written.
            if complete() {
                return Ok(reused());
            }
            let _lock = lock(dir)?;
            if complete() {
                return Ok(reused());
            }
            let mut manifest = read_manifest(&manifest_path);
            if manifest.remove(split).is_some() {
                write_manifest(&manifest_path, &manifest)?;
            }
            clear(dir, split)?;
            let done = AtomicUsize::new(0);
            self.takes.par_iter().try_for_each(|take| {
                encode(&dir.join(video(take)), &take.frames())?;
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                Ok::<_, VideoError>(())
            })?;
            write_lines(&paths.0, &self.takes.iter().flat_map(|take| records(take, split)).collect::<Vec<_>>())?;
            if !cells.is_empty() {
                write_lines(&paths.1, &cells)?;
            }
            manifest.insert(split.to_owned(), self.hash.clone());
            write_manifest(&manifest_path, &manifest)?;
            Ok(Written { records: paths.0, cells: paths.1, reused: false })
        }
    }

    fn video(take: &impl Take) -> String {
        format!("{VIDEOS}/{}.mp4", take.id())
    }

    fn cells_line(take: &impl Take) -> Option<CellsLine> {
        take.cells().map(|cells| CellsLine { id: take.id().to_owned(), cells })
    }

    fn records(take: &impl Take, split: &str) -> Vec<SceneRecord> {
        let whole = |record| SceneRecord {
            video: Some(video(take)),
            source: "scenes".to_owned(),
            split: split.to_owned(),
            ..record
        };
        take.records().into_iter().map(whole).collect()
    }

    fn hash(spec: &impl Serialize, dir: &Path) -> Result<String, VideoError> {
        let text = serde_json::to_vec(&(VERSION, spec))
            .map_err(|e| VideoError::BadFile { path: dir.to_owned(), reason: e.to_string() })?;
        Ok(blake3::hash(&text).to_hex().to_string())
    }

    /// An unreadable manifest counts as none: everything is then made anew.
    fn read_manifest(path: &Path) -> BTreeMap<String, String> {
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn write_manifest(path: &Path, manifest: &BTreeMap<String, String>) -> Result<(), VideoError> {
        let text = serde_json::to_vec_pretty(manifest)
            .map_err(|e| VideoError::BadFile { path: path.to_owned(), reason: e.to_string() })?;
        write_atomic(path, &text)
    }

    /// Waits for the folder's lock, which is held until the file is dropped.
    fn lock(dir: &Path) -> Result<File, VideoError> {
        let path = dir.join(LOCK);
        fs::create_dir_all(dir).map_err(|e| VideoError::io(dir, e))?;
        let file = File::create(&path).map_err(|e| VideoError::io(&path, e))?;
        file.lock().map_err(|e| VideoError::io(&path, e))?;
        Ok(file)
    }

    /// Removes a split's videos and what an interrupted process left of it under temporary names.
    fn clear(dir: &Path, split: &str) -> Result<(), VideoError> {
        let videos = dir.join(VIDEOS);
        fs::create_dir_all(&videos).map_err(|e| VideoError::io(&videos, e))?;
        let of_split = |name: &str| name.strip_prefix(split).is_some_and(|rest| rest.starts_with(['-', '.']));
        remove(&videos, |name| of_split(intended_name(name).unwrap_or(name)))?;
        remove(dir, |name| intended_name(name).is_some_and(|name| of_split(name) || name == MANIFEST))
    }

    fn remove(dir: &Path, unwanted: impl Fn(&str) -> bool) -> Result<(), VideoError> {
        for entry in fs::read_dir(dir).map_err(|e| VideoError::io(dir, e))? {
            let entry = entry.map_err(|e| VideoError::io(dir, e))?;
            if unwanted(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path()).map_err(|e| VideoError::io(&entry.path(), e))?;
            }
        }
        Ok(())
    }
}
