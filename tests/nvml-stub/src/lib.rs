//! The part of NVML's C interface that parityd calls, answered from a control file (`control`).
//!
//! Signatures and layouts are those of NVML 12's header. Every function takes pointers that NVML's contract says are valid; nvml-wrapper keeps it.

#![allow(non_snake_case, clippy::missing_safety_doc, reason = "names and contracts are NVML's")]
#![expect(clippy::disallowed_methods, reason = "a driver has a clock of its own")]

mod control;

use std::{
    ffi::{CStr, c_char},
    process,
    ptr::write_bytes,
    thread,
    time::{Duration, Instant},
};

use control::{Control, hang};

type Return = u32;
/// Its index, plus one: never null.
type Device = usize;

const SUCCESS: Return = 0;
const INVALID: Return = 2;
const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
const TOO_SMALL: Return = 7;
const TIMEOUT: Return = 10;

/// The bit of a critical Xid among event types.
const XID: u64 = 0x8;
/// The field that says what would bring a GPU back.
const RECOVERY_ACTION: u32 = 230;

#[repr(C)]
pub struct EventData {
    device: Device,
    event_type: u64,
    event_data: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

#[repr(C)]
pub struct FieldValue {
    id: u32,
    scope: u32,
    timestamp: i64,
    latency_us: i64,
    value_type: u32,
    ret: Return,
    value: u64,
}

#[repr(C)]
pub struct Memory {
    version: u32,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

#[repr(C)]
pub struct ProcessInfo {
    pid: u32,
    used: u64,
    gpu_instance: u32,
    compute_instance: u32,
}

#[repr(C)]
pub struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: u32,
    bus: u32,
    device: u32,
    device_id: u32,
    subsystem: u32,
    bus_id: [c_char; 32],
}

#[repr(C)]
pub struct Utilization {
    gpu: u32,
    memory: u32,
}

pub struct EventSet {
    gpus: Vec<u32>,
    /// The last event number that was told, for each GPU.
    told: Vec<u64>,
    /// What it returned when it failed. A set that has failed never does anything else.
    failed: Option<Return>,
}

/// What the control file says of a GPU, or the code that it has every call return.
fn gpu(device: Device) -> Result<(u32, Control), Return> {
    let index = u32::try_from(device.wrapping_sub(1)).map_err(|_| INVALID)?;
    hang(Some(index));
    let control = Control::read();
    match control.of(index, "ret") {
        Some(code) if code != 0 => Err(code as Return),
        _ if index < control.count() => Ok((index, control)),
        _ => Err(NOT_FOUND),
    }
}

fn coded(outcome: Result<(), Return>) -> Return {
    outcome.map_or_else(|code| code, |()| SUCCESS)
}

unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Return> {
    if place.is_null() {
        return Err(INVALID);
    }
    unsafe { place.write(value) };
    Ok(())
}

unsafe fn put_text(place: *mut c_char, room: u32, text: &str) -> Result<(), Return> {
    if text.len() >= room as usize {
        return Err(TOO_SMALL);
    }
    unsafe {
        write_bytes(place, 0, room as usize);
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
    }
    Ok(())
}

/// Writes a number that the file may give.
unsafe fn put_number(device: Device, place: *mut u32, key: &str, usual: u32) -> Return {
    coded(gpu(device).and_then(|(index, control)| {
        let value = control.of(index, key).map_or(usual, |value| value as u32);
        unsafe { put(place, value) }
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    hang(None);
    Control::read().number("init").map_or(SUCCESS, |code| code as Return)
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(place: *mut c_char, room: u32) -> Return {
    coded(unsafe { put_text(place, room, "580.95.05") })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(place: *mut u32) -> Return {
    hang(None);
    coded(unsafe { put(place, Control::read().count()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: u32, place: *mut Device) -> Return {
    let known = index < Control::read().count();
    if known { coded(unsafe { put(place, index as usize + 1) }) } else { INVALID }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, place: *mut Device) -> Return {
    let control = Control::read();
    let wanted = unsafe { CStr::from_ptr(uuid) }.to_string_lossy().into_owned();
    match (0..control.count()).find(|&index| control.uuid(index) == wanted) {
        Some(index) => coded(unsafe { put(place, index as usize + 1) }),
        None => NOT_FOUND,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, place: *mut c_char, room: u32) -> Return {
    coded(gpu(device).and_then(|(index, control)| unsafe { put_text(place, room, &control.uuid(index)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Device, place: *mut c_char, room: u32) -> Return {
    coded(gpu(device).and_then(|(index, control)| {
        let name = control.text_of(index, "name").unwrap_or("Stub GPU").to_owned();
        unsafe { put_text(place, room, &name) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(device: Device, place: *mut u32) -> Return {
    coded(gpu(device).and_then(|(index, _)| unsafe { put(place, index) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, place: *mut PciInfo) -> Return {
    coded(gpu(device).and_then(|(index, _)| {
        let mut info = PciInfo {
            bus_id_legacy: [0; 16],
            domain: 0,
            bus: index + 1,
            device: 0,
            device_id: 0x2330_10de,
            subsystem: 0,
            bus_id: [0; 32],
        };
        unsafe {
            put_text(info.bus_id_legacy.as_mut_ptr(), 16, &format!("0000:{:02X}:00.0", index + 1))?;
            put_text(info.bus_id.as_mut_ptr(), 32, &format!("00000000:{:02X}:00.0", index + 1))?;
            put(place, info)
        }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(device: Device, place: *mut u64) -> Return {
    coded(gpu(device).and_then(|(index, control)| unsafe { put(place, control.of(index, "throttle").unwrap_or(0)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetClockInfo(device: Device, _kind: u32, place: *mut u32) -> Return {
    unsafe { put_number(device, place, "clock", 1980) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(device: Device, _kind: u32, place: *mut u32) -> Return {
    unsafe { put_number(device, place, "clock_max", 1980) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(device: Device, _sensor: u32, place: *mut u32) -> Return {
    unsafe { put_number(device, place, "temp", 45) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperatureThreshold(device: Device, _kind: u32, place: *mut u32) -> Return {
    unsafe { put_number(device, place, "temp_slowdown", 89) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(device: Device, place: *mut Utilization) -> Return {
    coded(gpu(device).and_then(|(index, control)| {
        let gpu = control.of(index, "utilisation").unwrap_or(0) as u32;
        unsafe { put(place, Utilization { gpu, memory: 0 }) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, place: *mut Memory) -> Return {
    coded(gpu(device).and_then(|(index, control)| {
        let (total, used) = (80 << 30, control.of(index, "memory_used").unwrap_or(1 << 30));
        let version = unsafe { (*place).version };
        unsafe { put(place, Memory { version, total, reserved: 0, free: total - used, used }) }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPcieReplayCounter(device: Device, place: *mut u32) -> Return {
    unsafe { put_number(device, place, "replays", 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCurrPcieLinkGeneration(device: Device, place: *mut u32) -> Return {
    unsafe { put_number(device, place, "link", 5) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Device,
    count: *mut u32,
    places: *mut ProcessInfo,
) -> Return {
    coded(gpu(device).and_then(|(index, control)| {
        let pids = control.text_of(index, "pids").unwrap_or_default();
        // Our own process is one of those that compute.
        let pids: Vec<u32> = pids.split(',').filter_map(|pid| pid.parse().ok()).chain([process::id()]).collect();
        let room = unsafe { *count } as usize;
        unsafe { put(count, pids.len() as u32)? };
        if room < pids.len() {
            return Err(TOO_SMALL);
        }
        for (place, pid) in pids.into_iter().enumerate() {
            let info = ProcessInfo { pid, used: 0, gpu_instance: u32::MAX, compute_instance: u32::MAX };
            unsafe { put(places.add(place), info)? };
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(device: Device, count: i32, fields: *mut FieldValue) -> Return {
    coded(gpu(device).map(|(index, control)| {
        for place in 0..usize::try_from(count).unwrap_or(0) {
            let field = unsafe { &mut *fields.add(place) };
            // An unsigned int.
            field.value_type = 1;
            (field.ret, field.value) = match field.id {
                RECOVERY_ACTION => (SUCCESS, control.of(index, "recovery").unwrap_or(0)),
                id => match control.of(index, &format!("field{id}")) {
                    Some(value) => (SUCCESS, value),
                    None => (NOT_SUPPORTED, 0),
                },
            };
        }
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(place: *mut *mut EventSet) -> Return {
    let set = Box::new(EventSet { gpus: Vec::new(), told: Vec::new(), failed: None });
    coded(unsafe { put(place, Box::into_raw(set)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: Device, place: *mut u64) -> Return {
    coded(gpu(device).and_then(|(index, control)| unsafe { put(place, control.of(index, "events").unwrap_or(XID)) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(device: Device, _types: u64, set: *mut EventSet) -> Return {
    coded(gpu(device).map(|(index, control)| {
        let set = unsafe { &mut *set };
        set.gpus.push(index);
        // What happened before nobody is told.
        set.told.push(event(&control, index).map_or(0, |(number, _)| number));
    }))
}

/// The last event of a GPU: its number and its Xid.
fn event(control: &Control, gpu: u32) -> Option<(u64, u64)> {
    let (number, xid) = control.text_of(gpu, "xid")?.split_once(':')?;
    Some((number.parse().ok()?, xid.parse().ok()?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(set: *mut EventSet, place: *mut EventData, timeout_ms: u32) -> Return {
    const STEP: Duration = Duration::from_millis(5);
    let set = unsafe { &mut *set };
    let until = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        for (&gpu, told) in set.gpus.iter().zip(&mut set.told) {
            hang(Some(gpu));
            let control = Control::read();
            let failing = control.of(gpu, "wait").map(|code| code as Return);
            set.failed = set.failed.or(failing.filter(|&code| code != SUCCESS));
            if let Some(code) = set.failed {
                return code;
            }
            let Some((number, xid)) = event(&control, gpu).filter(|(number, _)| *number != *told) else {
                continue;
            };
            *told = number;
            let data = EventData {
                device: gpu as usize + 1,
                event_type: XID,
                event_data: xid,
                gpu_instance: u32::MAX,
                compute_instance: u32::MAX,
            };
            return coded(unsafe { put(place, data) });
        }
        if Instant::now() >= until {
            return TIMEOUT;
        }
        thread::sleep(STEP);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: *mut EventSet) -> Return {
    drop(unsafe { Box::from_raw(set) });
    SUCCESS
}
