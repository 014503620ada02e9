//! Caches of compute pipelines, their layouts and bind groups.

use super::device::{BACKEND, Core, lock};
use crate::error::{Error, Result};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes of uniform parameters that one dispatch may have.
pub(crate) const PARAM_BYTES: u64 = 512;

/// Layout of one bind group: the parameters at binding 0, then storage buffers.
#[derive(Debug)]
pub(crate) struct Layout {
    id: u64,
    pub(crate) bindings: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: Arc<Layout>,
}

/// Pipelines by launch key and layouts by which bindings are read-only.
#[derive(Debug, Default)]
pub(crate) struct Pipelines {
    pipelines: HashMap<String, Arc<Pipeline>>,
    layouts: HashMap<Vec<bool>, Arc<Layout>>,
}

impl Core {
    /// The pipeline of `key`, compiled from what `text` returns if it is new.
    pub(crate) fn pipeline(
        &self,
        key: &str,
        read_only: &[bool],
        text: impl FnOnce() -> Result<String>,
    ) -> Result<Arc<Pipeline>> {
        if let Some(found) = lock(&self.pipelines).pipelines.get(key) {
            return Ok(found.clone());
        }
        let layout = self.layout(read_only);
        let text = text()?;
        if let Some(dir) = std::env::var_os("GRISTMILL_WGSL_DUMP") {
            dump(dir.as_ref(), key, &text);
        }
        let made = self
            .scoped(|| self.compile(&text, &layout))
            .map_err(|e| Error::backend(BACKEND, format!("shader {key}: {e}")))?;
        let made = Arc::new(Pipeline {
            pipeline: made,
            layout,
        });
        lock(&self.pipelines)
            .pipelines
            .insert(key.to_owned(), made.clone());
        Ok(made)
    }

    fn compile(&self, text: &str, layout: &Layout) -> wgpu::ComputePipeline {
        let source = wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        };
        let module = if self.caps.checked {
            self.device.create_shader_module(source)
        } else {
            // SAFETY: the shaders are this crate's own. They bound every index by the shapes that
            // the queue validated, clamp or test every id that comes from device memory, and their
            // loops end.
            unsafe {
                self.device
                    .create_shader_module_trusted(source, wgpu::ShaderRuntimeChecks::unchecked())
            }
        };
        self.device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&layout.pipeline),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: self.caps.checked,
                },
                cache: None,
            })
    }

    fn layout(&self, read_only: &[bool]) -> Arc<Layout> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut cache = lock(&self.pipelines);
        if let Some(found) = cache.layouts.get(read_only) {
            return found.clone();
        }
        let entry = |binding: usize, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty,
                has_dynamic_offset,
                min_binding_size: None,
            },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true)];
        entries.extend(read_only.iter().enumerate().map(|(i, &read_only)| {
            entry(i + 1, wgpu::BufferBindingType::Storage { read_only }, false)
        }));
        let bindings = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
        let pipeline = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&bindings)],
                immediate_size: 0,
            });
        let made = Arc::new(Layout {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            bindings,
            pipeline,
        });
        cache.layouts.insert(read_only.to_vec(), made.clone());
        made
    }
}

/// Writes a rendered shader for people to read.
fn dump(dir: &std::path::Path, key: &str, text: &str) {
    let name: String = key
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(180)
        .collect();
    let path = dir.join(name + ".wgsl");
    if let Err(e) = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, text)) {
        log::warn!("cannot write {}: {e}", path.display());
    }
}

/// A part of a buffer, as a shader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slice {
    pub(crate) buffer: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct GroupKey {
    layout: u64,
    params: u64,
    slices: Vec<Slice>,
}

/// Bind groups by layout and what they bind. A buffer that goes away takes its groups along.
#[derive(Debug, Default)]
pub(crate) struct BindGroups {
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    users: HashMap<u64, Vec<GroupKey>>,
}

/// Bind groups kept; a model step has some hundreds.
const MOST_GROUPS: usize = 8192;

impl BindGroups {
    /// The bind group, made by `make` if it is new.
    pub(crate) fn get(
        &mut self,
        layout: &Layout,
        params: u64,
        slices: Vec<Slice>,
        make: impl FnOnce() -> wgpu::BindGroup,
    ) -> wgpu::BindGroup {
        let key = GroupKey {
            layout: layout.id,
            params,
            slices,
        };
        if let Some(found) = self.groups.get(&key) {
            return found.clone();
        }
        if self.groups.len() >= MOST_GROUPS {
            self.groups.clear();
            self.users.clear();
        }
        let made = make();
        let buffers = key.slices.iter().map(|s| s.buffer).chain([params]);
        for buffer in buffers {
            self.users.entry(buffer).or_default().push(key.clone());
        }
        self.groups.insert(key, made.clone());
        made
    }

    pub(crate) fn forget(&mut self, buffer: u64) {
        for key in self.users.remove(&buffer).unwrap_or_default() {
            for other in key.slices.iter().map(|s| s.buffer).chain([key.params]) {
                if let Some(keys) = self.users.get_mut(&other) {
                    keys.retain(|k| *k != key);
                }
            }
            self.groups.remove(&key);
        }
    }
}
