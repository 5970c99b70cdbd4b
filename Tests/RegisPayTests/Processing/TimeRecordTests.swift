import Foundation
import Testing

@testable import RegisPay

@Suite("The steady time over restarts")
struct TimeRecordTests {
  private let record = TimeRecord(
    steadyMicroseconds: 9_000, leastMicroseconds: 7_000, bootMicroseconds: 500, bootID: "a", clockMicroseconds: 5_000)

  private func later(boot: UInt64, id: String, clock: UInt64) -> UInt64 {
    record.steadyMicroseconds(
      at: TimeRecord(steadyMicroseconds: 0, bootMicroseconds: boot, bootID: id, clockMicroseconds: clock))
  }

  @Test(
    "it goes on exactly on the same start of the machine, whatever the clock was set to",
    arguments: [0, 5_000, 1 << 50])
  func sameBoot(clock: UInt64) { #expect(later(boot: 1_300, id: "a", clock: clock) == 9_800) }

  @Test("after another start of the machine it goes on by the clock, and never back")
  func otherBoot() {
    #expect(later(boot: 10, id: "b", clock: 5_700) == 9_700)
    #expect(later(boot: 10, id: "b", clock: 100) == 9_000)
    // A copy of the data directory on a machine that has the same name for its start.
    #expect(later(boot: 10, id: "a", clock: 5_001) == 9_001)
  }

  @Test(
    "the least time has certainly passed: since the record, or since the machine's start",
    arguments: [0, 5_000, 1 << 50])
  func least(clock: UInt64) {
    func least(_ boot: UInt64, _ id: String) -> UInt64? {
      record.leastMicroseconds(
        at: TimeRecord(steadyMicroseconds: 0, bootMicroseconds: boot, bootID: id, clockMicroseconds: clock))
    }
    #expect(least(1_300, "a") == 7_800)
    #expect(least(10, "b") == 7_010)
    #expect(least(10, "a") == 7_010, "a copy on a machine with the same name for its start")
    var old = record
    old.leastMicroseconds = nil
    #expect(old.leastMicroseconds(at: record) == nil)
  }

  @Test("a time namespace's own time since the start of the machine is not taken for the machine's")
  func timeNamespace() {
    let ahead = BootOffset(offsets: "monotonic           0         0\nboottime    31536000   1500000\n")
    #expect(ahead.removed(from: 31_536_000_001_500 + 800) == 800)
    #expect(BootOffset(offsets: "boottime -100 0").removed(from: 5) == 100_000_005)
    for none in ["", "boottime", "boottime x 0", "monotonic 7 0", "boottime 9223372036854775807 0"] {
      #expect(BootOffset(offsets: none).removed(from: 5) == 5, "\(none)")
    }
    #expect(BootOffset(offsets: "boottime 100 0").removed(from: 5) == 0)
  }

  @Test("it is read as it was written, and a time goes on from it")
  func roundTrip() throws {
    let folder = FileManager.default.temporaryDirectory.path + "/time-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = TimeRecord.path(in: folder)
    #expect(try TimeRecord(contentsOf: path) == nil)
    try record.write(to: path)
    #expect(try TimeRecord(contentsOf: path) == record)
    let now = TimeRecord.now(steady: 1)
    #expect(!now.bootID.isEmpty && now.bootMicroseconds > 0)
    #expect(SteadyTime(logTime: { 4 }, start: 7).microseconds() >= 7)
    var old = record
    old.leastMicroseconds = nil
    try old.write(to: path)
    #expect(try TimeRecord(contentsOf: path) == old)
  }

  @Test("a file in which any bit was flipped is refused, or says the same")
  func flippedBit() throws {
    let folder = FileManager.default.temporaryDirectory.path + "/time-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = TimeRecord.path(in: folder)
    try record.write(to: path)
    let sound = try Data(contentsOf: URL(fileURLWithPath: path))
    var refused = 0
    for bit in 0..<sound.count * 8 {
      var bytes = sound
      bytes[bit / 8] ^= 1 << UInt8(bit % 8)
      try bytes.write(to: URL(fileURLWithPath: path))
      do throws(SmallFile.Failure) {
        #expect(try TimeRecord(contentsOf: path) == record, "bit \(bit)")
      } catch {
        refused += 1
      }
    }
    // All but those in the name of the checksum: such a file is one of an earlier version, with the same times.
    #expect(refused >= (sound.count - "checksum".utf8.count) * 8, "\(refused)")
  }

  @Test("a file of an earlier version, without a checksum, is read")
  func earlierVersion() throws {
    let folder = FileManager.default.temporaryDirectory.path + "/time-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = TimeRecord.path(in: folder)
    let text = """
      {"steadyMicroseconds":9000,"bootMicroseconds":500,"bootID":"a","clockMicroseconds":5000,"leastMicroseconds":7000}
      """
    try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    #expect(try TimeRecord(contentsOf: path) == record)
  }

  @Test(
    "what is no such file is refused by name, and the start does not wait for it",
    arguments: ["", "{", "{}", #"{"steadyMicroseconds":99999999999999999999}"#, "pipe", "directory", "huge", "link"])
  func refused(content: String) throws {
    let folder = FileManager.default.temporaryDirectory.path + "/time-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = TimeRecord.path(in: folder)
    switch content {
    case "pipe": #expect(mkfifo(path, 0o600) == 0)
    case "directory": try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    case "huge":
      #expect(FileManager.default.createFile(atPath: path, contents: nil))
      #expect(truncate(path, 2 << 30) == 0)
    case "link": try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: path)
    default: try Data(content.utf8).write(to: URL(fileURLWithPath: path))
    }
    do throws(SmallFile.Failure) {
      _ = try TimeRecord(contentsOf: path)
      Issue.record("\(content) was taken")
    } catch {
      #expect(error.description.contains(path))
    }
  }
}
