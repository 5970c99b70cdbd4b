import Dispatch
import Glibc
import Synchronization

@testable import LogStore

/// The file `tail` as a reader beside a living writer meets it: when it opens, and while it follows.
enum TailTarget {
  static func run(_ input: inout InputReader) {
    let choices = input.byte()
    let seed = Seed.all[Int(choices) % Seed.all.count]
    var notices: [[UInt8]] = []
    let count = 1 + Int(input.byte() % 6)
    for _ in 0..<count { notices.append(notice(&input, seed)) }
    if choices & 0x80 != 0 { open(notices[0], seed) } else { follow(notices, seed) }
  }

  private static func notice(_ input: inout InputReader, _ seed: Seed) -> [UInt8] {
    let choices = input.byte()
    // As a rule an end that there was: before one of the frames.
    let frame = seed.frames[input.index(below: seed.frames.count)]
    var end = DurableEnd(
      offset: frame.offsets.lowerBound, baseOffset: FileName.baseOffset(frame.file, suffix: ".log") ?? 0,
      position: frame.bytes.lowerBound)
    if choices & 1 != 0 { end.offset = input.number(bytes: 8) }
    if choices & 2 != 0 { end.baseOffset = choices & 4 == 0 ? input.number(bytes: 8) : UInt64(input.byte()) }
    if choices & 8 != 0 { end.position = Int(input.number(bytes: 4)) }
    let segment = choices & 6 == 4 ? 0 : seed.headerChecksum(of: frame.file)
    var bytes = TailNotice(
      end: end, writer: 1 + UInt32(choices >> 7), segment: segment, state: choices & 0x30 == 0x30 ? .closed : .open
    ).encoded()
    if choices & 0x40 != 0 {
      for (index, byte) in input.take(3).enumerated() { bytes[(Int(byte) + index) % bytes.count] ^= byte }
      if choices & 0x20 != 0 { Resealing.tail(&bytes) }
      if choices & 0x10 != 0 { bytes.removeLast(Int(input.byte() % 41)) }
    }
    return bytes
  }

  private static func open(_ notice: [UInt8], _ seed: Seed) {
    // A writer that has not finished opening is waited for, for half a minute: no input for this.
    guard let read = notice.withUnsafeBytes({ TailNotice($0) }), read.state != .opening else { return }
    let disk = seed.disk
    disk.set(join(Seed.directory, FileName.tail), notice)
    disk.set(join(Seed.directory, FileName.lock), [])
    // The writer is there for the first looks, and gone when the reader looks again, so that it doesn't try five times.
    disk.state.withLock { $0.looksAtWriter = 1 }
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Seed.directory, disk: disk, follows: false)
      expectTruth(LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery), seed)
    } catch {
      accept(error)
    }
  }

  /// Feeds the follower one notice after the other, each when it waits for one.
  private static func follow(_ notices: [[UInt8]], _ seed: Seed) {
    let next = Mutex(0)
    let isOver = DispatchSemaphore(value: 0)
    let box = Mutex<MemoryDisk?>(nil)
    let disk = MemoryDisk(
      files: seed.memory.withPaths(Seed.directory), directories: [Seed.directory],
      onWait: {
        let number = next.withLock { number in
          defer { number += 1 }
          return number
        }
        guard number < notices.count else {
          isOver.signal()
          return true
        }
        box.withLock { $0 }?.set(join(Seed.directory, FileName.tail), notices[number])
        // As a time-out, so that the file is opened anew.
        return false
      })
    box.withLock { $0 = disk }
    defer { box.withLock { $0 = nil } }
    let first = seed.frames[min(2, seed.frames.count - 1)]
    disk.set(
      join(Seed.directory, FileName.tail),
      TailNotice(
        end: DurableEnd(offset: first.offsets.lowerBound, baseOffset: 0, position: first.bytes.lowerBound), writer: 1,
        segment: seed.headerChecksum(of: first.file), state: .open
      ).encoded())
    disk.set(join(Seed.directory, FileName.lock), [])
    disk.state.withLock { $0.looksAtWriter = 1 }
    do throws(LogStoreError) {
      let (follower, commitPoint, recovery) = try Follower.open(Seed.directory, disk: disk)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      // Ends with the last notice, or with damage, of which whoever waits is told.
      Task.detached {
        do throws(LogStoreError) {
          if try await !reader.waitForEvents(at: .max) { isOver.signal() }
        } catch {
          isOver.signal()
        }
      }
      while isOver.wait(timeout: .now() + .milliseconds(20)) == .timedOut {
        expectTruth(reader, seed)
      }
      expectTruth(reader, seed)
      reader.close()
    } catch {
      accept(error)
    }
  }

  private static func accept(_ error: LogStoreError) {
    switch error {
    // A segment that is named and not there.
    case .damaged, .inputOutput(_, _, ENOENT): break
    default: broken("another error than damage: \(error)")
    }
  }

  /// Whatever the notice said, what is served is what was appended.
  private static func expectTruth(_ reader: LogReader, _ seed: Seed) {
    do throws(LogStoreError) {
      try reader.forEach(from: 0) { event in
        promise(event.offset < UInt64(seed.events.count), "no event that was not appended")
        promise(event.copy() == seed.events[Int(event.offset)], "offset \(event.offset) is what was appended")
        return true
      }
      for stream in ["busy", "stream-1"] {
        let truth = seed.events(of: stream)
        let found = try reader.stream(stream)
        promise(found == Array(truth.prefix(found.count)), "what is served of \(stream) is what was appended")
      }
    } catch {
      accept(error)
    }
  }
}
