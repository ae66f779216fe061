//! The parts that cuDNN's graph API is made of: each is made, told what it is, and finished, and another one may be told of it.
//!
//! A part that is not finished yet is a [`Draft`] and one that is a [`Part`], so that none is told of what is unfinished, and none is changed later. All of it is in host memory.

use std::{ffi::c_void, ptr};

use cudarc::{
    cudnn::sys::{
        self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
        cudnnBackendDescriptorType_t as Role,
    },
    driver::sys::CUdeviceptr,
};

use super::{Handle, Outcome, description::unheard};

/// A part that is being described.
#[derive(Debug)]
pub(super) struct Draft(sys::cudnnBackendDescriptor_t);

/// A part as cuDNN took it.
#[derive(Debug)]
pub(super) struct Part(Draft);

#[cfg(test)]
impl Part {
    /// A GPU, of what cuDNN wrote of one. The text ends with a zero.
    pub(super) fn gpu(properties: &std::ffi::CStr) -> Outcome<Self> {
        let (bytes, mut gpu) = (properties.to_bytes_with_nul(), Draft::new(Role::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)?);
        let letters: Vec<_> = bytes.iter().map(|&letter| Letter(letter)).collect();
        gpu.tell(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, &letters)?;
        gpu.finish()
    }
}

/// A letter of a text.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Letter(u8);

#[cfg(test)]
impl Value for Letter {
    const TYPE: Type = Type::CUDNN_TYPE_CHAR;
}

/// What cuDNN can be told of a part, and under which name of its kind.
pub(super) trait Value {
    const TYPE: Type;
}

macro_rules! values {
    ($($kind:ty => $name:ident),* $(,)?) => {
        $(impl Value for $kind {
            const TYPE: Type = Type::$name;
        })*
    };
}

values! {
    i64 => CUDNN_TYPE_INT64,
    f32 => CUDNN_TYPE_FLOAT,
    bool => CUDNN_TYPE_BOOLEAN,
    sys::cudnnHandle_t => CUDNN_TYPE_HANDLE,
    sys::cudnnDataType_t => CUDNN_TYPE_DATA_TYPE,
    sys::cudnnConvolutionMode_t => CUDNN_TYPE_CONVOLUTION_MODE,
    sys::cudnnBackendHeurMode_t => CUDNN_TYPE_HEUR_MODE,
    sys::cudnnPointwiseMode_t => CUDNN_TYPE_POINTWISE_MODE,
    Place => CUDNN_TYPE_VOID_PTR,
    Link => CUDNN_TYPE_BACKEND_DESCRIPTOR,
}

/// The GPU that something is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gpu<'g> {
    There(&'g Handle),
    /// One that is not there, as its properties describe it (cuDNN developer guide, "Deviceless Ahead-of-time Compilation"). For it there are plans, which nothing executes.
    #[cfg(test)]
    Described(&'g Part),
}

/// What of it is to be for a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'g> {
    Graph(Gpu<'g>),
    Guess(Gpu<'g>),
    Plan(Gpu<'g>),
}

/// Where something is in the device's memory.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Place(pub(super) CUdeviceptr);

/// Another part.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Link(sys::cudnnBackendDescriptor_t);

impl Draft {
    pub(super) fn new(role: Role) -> Outcome<Self> {
        let mut made = ptr::null_mut();
        // SAFETY: it writes what it made there.
        unsafe { sys::cudnnBackendCreateDescriptor(role, &raw mut made) }.result()?;
        Ok(Draft(made))
    }

    pub(super) fn tell<T: Value>(&mut self, name: Name, values: &[T]) -> Outcome<()> {
        let count = i64::try_from(values.len()).expect("lists of a few");
        // SAFETY: it has been made; it reads as many values, which are of the kind that their type is called by.
        unsafe { sys::cudnnBackendSetAttribute(self.0, name, T::TYPE, count, values.as_ptr().cast()) }.result()
    }

    /// Tells it of other parts, which outlive it.
    pub(super) fn link(&mut self, name: Name, parts: &[&Part]) -> Outcome<()> {
        let links: Vec<_> = parts.iter().map(|part| Link(part.0.0)).collect();
        self.tell(name, &links)
    }

    /// Tells it whom a graph, a guess or a plan is for.
    pub(super) fn aim(&mut self, target: Target<'_>) -> Outcome<()> {
        match target {
            Target::Graph(Gpu::There(handle)) => self.tell(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle.0]),
            Target::Plan(Gpu::There(handle)) => self.tell(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, &[handle.0]),
            // A graph says it.
            Target::Guess(Gpu::There(_)) => Ok(()),
            #[cfg(test)]
            Target::Graph(Gpu::Described(_)) => Ok(()),
            #[cfg(test)]
            Target::Plan(Gpu::Described(gpu)) => self.link(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[gpu]),
            #[cfg(test)]
            Target::Guess(Gpu::Described(gpu)) => self.link(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[gpu]),
        }
    }

    pub(super) fn finish(self) -> Outcome<Part> {
        // SAFETY: it has been made, and not finished.
        unsafe { sys::cudnnBackendFinalize(self.0) }.result()?;
        Ok(Part(self))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // SAFETY: `new` made it, and nothing else frees it.
        unheard(unsafe { sys::cudnnBackendDestroyDescriptor(self.0) }.result());
    }
}

impl Part {
    /// A number of it.
    pub(super) fn number(&self, name: Name) -> Outcome<i64> {
        let (mut number, mut found) = (0_i64, 0);
        // SAFETY: there is room for the one that is asked for.
        unsafe { self.ask(name, Type::CUDNN_TYPE_INT64, 1, &raw mut found, (&raw mut number).cast()) }?;
        Ok(number)
    }

    /// The notes that it has, of at most so many. Numbers, because a newer library has notes that this program knows no names for.
    pub(super) fn notes<const MOST: usize>(&self, name: Name, kind: Type) -> Outcome<Vec<u32>> {
        let (mut notes, mut found) = ([0_u32; MOST], 0);
        // SAFETY: notes are numbers of this size, and there is room for as many as are asked for.
        unsafe { self.ask(name, kind, MOST, &raw mut found, notes.as_mut_ptr().cast()) }?;
        Ok(notes.into_iter().take(usize::try_from(found).unwrap_or(0)).collect())
    }

    /// The one part that it was told of under that name, or found.
    pub(super) fn part(&self, name: Name, role: Role) -> Outcome<Part> {
        let part = Draft::new(role)?;
        let (mut link, mut found) = (Link(part.0), 0);
        // SAFETY: what it finds becomes the part that was made for it, of which there is one.
        unsafe { self.ask(name, Link::TYPE, 1, &raw mut found, (&raw mut link).cast()) }?;
        Ok(Part(part))
    }

    /// All parts that it found.
    pub(super) fn parts(&self, name: Name, role: Role) -> Outcome<Vec<Part>> {
        let mut found = 0;
        // SAFETY: none is asked for, but how many there are.
        unsafe { self.ask(name, Link::TYPE, 0, &raw mut found, ptr::null_mut()) }?;
        let parts: Vec<_> = (0..found).map(|_| Draft::new(role)).collect::<Outcome<_>>()?;
        let mut links: Vec<_> = parts.iter().map(|part| Link(part.0)).collect();
        // SAFETY: as many as were made for it.
        unsafe { self.ask(name, Link::TYPE, links.len(), &raw mut found, links.as_mut_ptr().cast()) }?;
        let found = usize::try_from(found).unwrap_or(0);
        Ok(parts.into_iter().take(found).map(Part).collect())
    }

    /// # Safety
    /// There is room for `most` values of that kind at `to`.
    unsafe fn ask(&self, name: Name, kind: Type, most: usize, found: *mut i64, to: *mut c_void) -> Outcome<()> {
        let most = i64::try_from(most).expect("lists of a few");
        // SAFETY: as of this function; it is finished, or was found.
        unsafe { sys::cudnnBackendGetAttribute(self.0.0, name, kind, most, found, to) }.result()
    }

    /// Hands a plan to the handle's stream.
    ///
    /// # Safety
    /// This is a plan, and `pack` tells it of memory that is there, as large as it was planned for, until the stream has done it.
    pub(super) unsafe fn execute(&self, handle: &Handle, pack: &Part) -> Outcome<()> {
        // SAFETY: as of this function.
        unsafe { sys::cudnnBackendExecute(handle.0, self.0.0, pack.0.0) }.result()
    }
}
