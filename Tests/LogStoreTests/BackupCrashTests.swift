import Foundation
import Testing

@testable import LogStore

@Suite struct BackupCrashTests {
  /// A simulated disk with a store that was backed up once and has grown since; its writer has closed it. `afterKill` gives
  /// further ones like it.
  private func makeDisk() async throws -> SimulatedDisk {
    let disk = SimulatedDisk()
    try await append(100, to: disk)
    #expect(try backUp(disk).endOffset == 100)
    try await append(150, to: disk)
    return disk
  }

  private func append(_ count: Int, to disk: SimulatedDisk) async throws {
    let log = try LogStore.open("store", options: smallSegments(), disk: disk)
    for number in 0..<count {
      _ = try await log.append(Append(event("s", "\(number)" + String(repeating: "p", count: 700))))
    }
    try await log.close()
  }

  @discardableResult
  private func backUp(_ disk: SimulatedDisk) throws(LogStoreError) -> BackupReport {
    try BackupRun(directory: "store", disk: disk, progress: nil).run(to: .directory("backup"))
  }

  /// Restores from what a simulated disk holds, on the real one.
  private func restored(_ disk: SimulatedDisk) throws -> UInt64 {
    let directory = TemporaryDirectory()
    try FileManager.default.createDirectory(atPath: directory.file("backup"), withIntermediateDirectories: true)
    let files = disk.machine.withState { state in
      state.names.files.filter { $0.key.hasPrefix("backup/") }.mapValues(\.content)
    }
    for (path, content) in files { try Data(content).write(to: URL(fileURLWithPath: directory.file(path))) }
    let report = try LogStore.restore(from: .directory(directory.file("backup")), to: directory.file("restored"))
    let reader = try LogReader.open(directory.file("restored"))
    defer { reader.close() }
    #expect(try reader.events(from: 0, limit: .max).count == Int(report.endOffset))
    return report.endOffset
  }

  @Test("a power cut at any step of a backup leaves the one before it or the new one, whole; the next one goes on")
  func powerCuts() async throws {
    var generator = SeededGenerator.printed()
    let base = try await makeDisk()
    var step = 0
    var isDone = false
    while !isDone {
      step += 1
      for attempt in 0..<3 {
        let disk = base.afterKill()
        let dying = step
        disk.setFault { number, _, _ in number == dying ? .death : nil }
        isDone = (try? backUp(disk)) != nil
        if isDone { break }
        let after = attempt == 0 ? disk.afterKill() : disk.afterPowerCut(&generator)
        let offset = try restored(after)
        #expect(offset == 100 || offset == 250, "step \(step): \(offset)")
        // The segments that it had copied may be gone with the power, but then they are copied again.
        #expect(try backUp(after).endOffset == 250)
        #expect(try restored(after.afterPowerCut(&generator)) == 250, "step \(step)")
      }
    }
    #expect(step > 15, "too few steps: \(step)")
  }

  @Test(
    "an operation that fails at any step is reported, and leaves the previous backup or the new one",
    arguments: [EIO, ENOSPC])
  func failures(code: Int32) async throws {
    let base = try await makeDisk()
    var step = 0
    while true {
      step += 1
      let disk = base.afterKill()
      let failing = step
      disk.setFault { number, _, _ in number == failing ? .error(code) : nil }
      do throws(LogStoreError) {
        try backUp(disk)
        break
      } catch {
        switch error {
        case .diskFull: #expect(code == ENOSPC)
        case .inputOutput(_, let path, code): #expect(path.hasPrefix("backup"))
        default: Issue.record("step \(step): \(error)")
        }
      }
      disk.setFault(nil)
      let offset = try restored(disk)
      #expect(offset == 100 || offset == 250, "step \(step): \(offset)")
      #expect(try backUp(disk).endOffset == 250)
      #expect(try restored(disk) == 250)
    }
    #expect(step > 15, "too few steps: \(step)")
  }
}
