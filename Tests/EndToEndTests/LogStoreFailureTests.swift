import Foundation
import Testing

extension LogStoreCommandTests {
  /// The operating system refuses.
  @Suite struct Failures {
    struct Fault: CustomTestStringConvertible, Sendable {
      var calls: String
      var code: String
      var places: [Int]
      var testDescription: String { "\(code) from \(calls)" }
    }

    static let faults = [
      Fault(calls: "fdatasync,fsync", code: "EIO", places: [1, 2, 3, 5, 9, 14]),
      Fault(calls: "fdatasync,fsync", code: "ENOSPC", places: [2, 6]),
      Fault(calls: "pwrite64,pwritev,pwritev2", code: "EIO", places: [1, 2, 3, 5, 8, 13, 21]),
      Fault(calls: "pwrite64,pwritev,pwritev2", code: "ENOSPC", places: [1, 2, 4, 7, 12]),
      Fault(calls: "rename,renameat,renameat2", code: "EIO", places: [1, 2, 3, 4]),
      Fault(calls: "rename,renameat,renameat2", code: "ENOSPC", places: [2, 3]),
      Fault(calls: "ftruncate,fallocate", code: "ENOSPC", places: [1, 2, 3]),
      Fault(calls: "unlink,unlinkat", code: "EIO", places: [1, 2]),
    ]

    @Test(
      "a call that fails stops the store: a typed error, exit 1, nothing lost, and it opens again", arguments: faults)
    func injected(fault: Fault) async throws {
      for place in fault.places {
        let store = try StoreUnderTest()
        try await store.fill(5)
        let comment: Comment = "\(fault.code) from \(fault.calls) number \(place)"
        let log = store.scratch.newPath("strace")
        let names = fault.calls.split(separator: ",").map { "?\($0)" }.joined(separator: ",")
        let result = try await store.run(
          ["append", "--segment-size", "64KiB", "--batch", "2"], input: StoreUnderTest.lines(900, 200, from: 5),
          under: SystemCallTrace.tracer(log: log, inject: ["\(names):error=\(fault.code):when=\(place)"]))
        let trace = try SystemCallTrace(log: log)
        #expect(result.signal == nil, comment)
        #expect(try trace.unsyncedAcknowledgements() == [], comment)

        // The acknowledged lines are a prefix, and the rest is refused.
        let acknowledged = result.lines.prefix { $0.hasPrefix("ok ") }
        #expect(
          !result.lines.dropFirst(acknowledged.count).contains { $0.hasPrefix("ok ") }, "\(comment): ok after err")
        if result.exitCode == 0 {
          #expect(acknowledged.count == 900, comment)
        } else {
          #expect(result.exitCode == 1, comment)
          let lines = result.errors.split(separator: "\n")
          #expect(lines.count == 1 && result.errors.hasPrefix("logstore: "), "\(comment): \(result.errors)")
          #expect(result.errors.contains(store.path), "\(comment): no file in \(result.errors)")
        }
        // A failed sync of the log is never survived: the kernel may have dropped the pages.
        if trace.calls.contains(where: {
          $0.isInjected && $0.name == "fdatasync" && $0.path()?.hasSuffix(".log") == true
        }) {
          #expect(result.exitCode == 1, "\(comment): went on after a failed sync")
        }
        let events = try await store.dump()
        #expect(events.count >= 5 + acknowledged.count, comment)
        #expect(events.count % 2 == 1, "\(comment): half a batch")
        let again = try await store.run("append", input: "s\tT\tagain\n")
        #expect(again.text == "ok \(events.count)\n", "\(comment): \(again.errors)")
        try await store.expectSound(comment)
      }
    }

    @Test("after a failed sync no ok follows, and the lines in flight get err")
    func failedSync() async throws {
      let store = try StoreUnderTest()
      try await store.fill(1)
      let process = try store.start("append", under: strace("fdatasync", "error=EIO:when=6+"))
      var acknowledged = 0
      var refusal: String?
      for number in 0..<40 {
        try await process.send("s\tT\t\(number)\n")
        guard let answer = try await process.line() else { break }
        if answer.hasPrefix("ok ") {
          #expect(refusal == nil, "ok after err")
          acknowledged += 1
        } else {
          refusal = answer
          break
        }
      }
      #expect(refusal?.hasPrefix("err ") == true)
      // The process ends by itself although its input is still open.
      let ending = try await process.endByItself()
      #expect(ending.exitCode == 1)
      #expect(ending.errors.contains("Input/output error") && ending.errors.contains(store.path), "\(ending.errors)")
      #expect(try await store.dump().count >= 1 + acknowledged)
    }

    @Test("a full disk is reported, reading continues, and appends work again with space", .enabled(if: geteuid() == 0))
    func fullDisk() async throws {
      let store = try StoreUnderTest()
      try FileManager.default.createDirectory(atPath: store.path, withIntermediateDirectories: false)
      let mount = try LogStoreProcess(
        "mount", ["-t", "tmpfs", "-o", "size=24m", "tmpfs", store.path], scratch: store.scratch)
      try #require(try await mount.end().exitCode == 0, "mount failed")
      let result: Result<Void, any Error>
      do {
        try await fillUp(store)
        result = .success(())
      } catch {
        result = .failure(error)
      }
      let unmount = try LogStoreProcess("umount", ["-l", store.path], scratch: store.scratch)
      _ = try await unmount.end()
      try result.get()
    }

    private func fillUp(_ store: StoreUnderTest) async throws {
      // A store is not created beside another program's file.
      let first = try await store.run(["append", "--segment-size", "4MiB"], input: Array("s\tT\tfirst\n".utf8))
      #expect(first.exitCode == 0)
      try store.write("filler", Array(repeating: 1, count: 8 << 20))
      let payload = String(repeating: "p", count: 500_000)
      let input = (0..<60).map { "s\tT\t\($0) \(payload)\n" }.joined()
      let arguments = ["append", "--segment-size", "4MiB"]
      let full = try await store.run(arguments, input: Array(input.utf8))
      #expect(full.exitCode == 1)
      let acknowledged = full.lines.count { $0.hasPrefix("ok ") }
      #expect(acknowledged > 10, "\(full.errors)")
      #expect(full.lines.dropFirst(acknowledged).allSatisfy { $0.hasPrefix("err ") && $0.contains("disk full") })
      #expect(full.errors.contains("disk full") && full.errors.contains(store.path), "\(full.errors)")
      // Reading continues. A refused append may still be in the log, but only if it was never acknowledged.
      let events = try await store.dump()
      #expect(events.count >= acknowledged)
      // Still full: reported again, and trying loses nothing.
      let again = try await store.run(arguments, input: Array(input.utf8))
      #expect(again.exitCode == 1)
      let more = again.lines.count { $0.hasPrefix("ok ") }
      try store.remove("filler")
      let after = try await store.run(["append", "--segment-size", "4MiB"], input: Array("s\tT\tafter\n".utf8))
      #expect(after.exitCode == 0, "\(after.errors)")
      let all = try await store.dump()
      #expect(all.starts(with: events))
      #expect(all.count >= acknowledged + more + 1)
      #expect(all.last?.payload == Array("after".utf8))
      try await store.expectSound()
    }
  }
}
