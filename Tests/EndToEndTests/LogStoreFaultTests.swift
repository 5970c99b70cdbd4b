import Foundation
import Testing

extension LogStoreCommandTests {
  /// Every system call that the command makes on a store, failing in every way that fits it. LOGSTORE_FAULT_ROUNDS sets how
  /// many of them for each operation; 0: all that differ by call, file and error. LOGSTORE_FAULT_OPERATIONS names the
  /// operations, separated by commas.
  @Suite struct Faults {
    static let rounds = ProcessInfo.processInfo.environment["LOGSTORE_FAULT_ROUNDS"].flatMap(Int.init) ?? 10

    static let operations: [Operation] = {
      guard let names = ProcessInfo.processInfo.environment["LOGSTORE_FAULT_OPERATIONS"] else { return Operation.all }
      return Operation.all.filter { names.split(separator: ",").contains(Substring($0.name)) }
    }()

    /// The errors that the system may return.
    static func actions(_ call: String) -> [Shim.Fault.Action] {
      let codes: [Int32]
      switch call {
      case "pread", "read": codes = [EIO, EINTR]
      case "pwrite", "write": codes = [EIO, ENOSPC, EINTR, EDQUOT, EFBIG]
      case "open": codes = [EIO, EINTR, EMFILE, EACCES, EROFS, ENOSPC]
      case "fsync", "fdatasync": codes = [EIO, ENOSPC, EINTR]
      case "rename", "unlink", "rmdir", "mkdir": codes = [EIO, ENOSPC, EINTR, EACCES, EROFS]
      case "ftruncate": codes = [EIO, ENOSPC, EINTR, EFBIG]
      case "fallocate": codes = [EIO, ENOSPC, EINTR, EOPNOTSUPP, EFBIG]
      case "sync_file_range": codes = [EIO, ENOSPC, EINTR, ENOSYS]
      case "mmap": codes = [ENOMEM, EACCES, ENODEV]
      case "madvise": codes = [EINVAL, EIO]
      case "flock": codes = [EIO, EINTR, ENOLCK]
      case "fcntl": codes = [EIO, EINTR, ENOLCK]
      case "opendir": codes = [EIO, EINTR, EMFILE, EACCES]
      case "readdir", "close", "closedir": codes = [EIO, EINTR]
      case "fstat", "stat", "lstat", "access", "realpath": codes = [EIO, EINTR, EACCES]
      case "inotify_init1", "pipe": codes = [EMFILE]
      case "inotify_add_watch": codes = [ENOSPC, EACCES]
      case "poll": codes = [EINTR, ENOMEM]
      default: codes = []
      }
      let isData = ["pread", "read", "pwrite", "write"].contains(call)
      return codes.map { .error($0) } + (isData ? [.short] : [])
    }

    /// Nobody may notice.
    static func isInvisible(_ fault: Shim.Fault) -> Bool {
      switch (fault.call, fault.action) {
      case (_, .short): true
      // An interrupted sync has proven nothing; a name that was to change may have changed.
      case (let call, .error(EINTR)): !["fsync", "fdatasync", "rename", "unlink", "rmdir", "mkdir"].contains(call)
      case ("fallocate", .error(EOPNOTSUPP)): true
      case (let call, _):
        ["madvise", "sync_file_range", "close", "closedir", "inotify_init1", "inotify_add_watch", "fcntl"].contains(
          call)
      }
    }

    @Test(
      "a call that fails is reported with name, file and cause, nothing after it is acknowledged, and the store opens again",
      arguments: operations)
    func everyCall(operation: Operation) async throws {
      var random = SeededGenerator("faults in \(operation.name)")
      let calls = try await Self.calls(of: operation)
      #expect(calls.count > 5, "the log of \(operation.name) shows hardly any call")
      let faults = Self.faults(in: calls, using: &random)
      try await inParallel(faults) { fault in
        let comment: Comment = "\(operation.name), \(fault)"
        let run = try await OperationRun(operation)
        let log = run.store.scratch.newPath("log")
        let finished = try await run.run(
          under: try await Shim.words(root: run.store.scratch.path, faults: [fault], log: log, withData: true))
        let isDone = finished.exitCode == 0
        #expect(finished.signal == nil, "\(comment): ended by signal \(finished.signal ?? 0) \(finished.errors)")
        #expect([0, 1].contains(finished.exitCode ?? 0), "\(comment): exit code \(finished.exitCode ?? -1)")
        if isDone {
          // A user who may not write can't prove the end of a dead writer's log, and the command says what is left out.
          let isUnproven = finished.errors.contains("acknowledged events may stand here") && operation.start == .dead
          #expect(
            try isUnproven || run.isComplete(finished),
            "\(comment): exit code 0, but not done: \(finished.text.suffix(300))")
        } else {
          #expect(!Self.isInvisible(fault), "\(comment): \(finished.errors)")
          Self.expectOneLine(finished, fault, root: run.store.scratch.path, comment)
        }
        Self.expectOnlySynced(try ShimRecord.read(log), comment)
        try await run.expectWhole(finished, comment)
      }
      print("\(operation.name): \(calls.count) calls, \(faults.count) of them made to fail")
    }

    /// The calls of an ordinary run, with the number of each among those of its name.
    private static func calls(of operation: Operation) async throws -> [(call: String, number: Int, file: String)] {
      let run = try await OperationRun(operation)
      let log = run.store.scratch.newPath("log")
      let finished = try await run.run(under: try await Shim.words(root: run.store.scratch.path, log: log))
      try #require(finished.exitCode == 0, "\(operation.name): \(finished.errors)")
      try #require(try run.isComplete(finished), "\(operation.name): \(finished.text.suffix(300))")
      var counts: [String: Int] = [:]
      return try ShimRecord.read(log).filter { $0.phase == .begin }.map { record in
        counts[record.call, default: 0] += 1
        let name = (record.path as NSString).lastPathComponent
        // Files of one kind count as one.
        return (record.call, counts[record.call, default: 0], String(name.filter { !$0.isNumber }))
      }
    }

    /// For each call on each kind of file and each error the first and another one; a sample of them, if not all are
    /// asked for.
    private static func faults(
      in calls: [(call: String, number: Int, file: String)], using random: inout SeededGenerator
    ) -> [Shim.Fault] {
      var places: [String: (call: String, numbers: [Int])] = [:]
      for call in calls { places["\(call.call) \(call.file)", default: (call.call, [])].numbers.append(call.number) }
      var faults: [Shim.Fault] = []
      for (_, place) in places.sorted(by: { $0.key < $1.key }) {
        for action in actions(place.call) {
          let others = place.numbers.dropFirst()
          for number in [place.numbers[0], others.randomElement(using: &random)].compactMap({ $0 }) {
            // A call that fails once may keep failing; but one that is interrupted each time never completes.
            let lasts = action != .error(EINTR) && Bool.random(using: &random)
            faults.append(Shim.Fault(call: place.call, number: number, andLater: lasts, action: action))
          }
        }
      }
      guard rounds > 0, faults.count > rounds else { return faults }
      return Array(faults.shuffled(using: &random).prefix(rounds))
    }

    /// One line: what, where, why, what to do.
    private static func expectOneLine(_ finished: Finished, _ fault: Shim.Fault, root: String, _ comment: Comment) {
      let lines = finished.errors.split(separator: "\n").filter { !$0.hasPrefix("logstore: note: ") }
      let line = lines.first ?? ""
      #expect(lines.count == 1 && line.hasPrefix("logstore: "), "\(comment): \(finished.errors)")
      let isNamed = line.contains(root) || line.contains("standard ") || line.contains(" /") || line.contains("a pipe ")
      #expect(isNamed, "\(comment): no file in \(line)")
      if case .error(let code) = fault.action {
        let isFull = (code == ENOSPC || code == EDQUOT) && line.contains("disk full")
        let cause = String(cString: strerror(code))
        // `verify` goes on behind a place that can't be read, and tells it on standard output as it tells damage.
        let isFinding = finished.lines.contains { $0.hasPrefix("damaged ") && $0.contains(cause) && $0.contains(" @") }
        #expect(isFull || isFinding || line.contains(cause), "\(comment): no cause in \(line)")
      }
      #expect(line.contains("; "), "\(comment): not what to do in \(line)")
    }

    /// No line says `ok` for an event before a sync that covers it has succeeded. A failed sync covers nothing, and nothing
    /// is covered after it. (Events that were synced before may be reported after it: output has a thread of its own.)
    private static func expectOnlySynced(_ records: [ShimRecord], _ comment: Comment) {
      var files: [Int: Frames] = [:]
      var durableEnd: UInt64 = 0
      for record in records {
        switch (record.call, record.phase) {
        case ("pwrite", .begin): files[record.file, default: Frames()].add(record.data, at: record.position)
        case ("fdatasync", .begin), ("fsync", .begin): files[record.file]?.beginSync()
        case ("fdatasync", .failed), ("fsync", .failed): files[record.file]?.hasFailed = true
        case ("fdatasync", .end), ("fsync", .end):
          guard record.result == 0, let file = files[record.file], !file.hasFailed else { continue }
          durableEnd = max(durableEnd, file.syncingEnd)
        case ("write", .begin) where record.path == "<stdout>":
          for line in record.data.split(separator: UInt8(ascii: "\n")) where line.starts(with: "ok ".utf8) {
            guard let offset = UInt64(String(decoding: line.dropFirst(3), as: UTF8.self)) else { continue }
            #expect(offset < durableEnd, "\(comment): ok \(offset), synced up to \(durableEnd)")
          }
        default: continue
        }
      }
    }

    /// What a process has written of a segment's frames (docs/FORMAT.md, *Frame*).
    private struct Frames {
      private(set) var writtenEnd: UInt64 = 0
      private(set) var syncingEnd: UInt64 = 0
      var hasFailed = false
      /// Of the frame written last, the bytes that are still to come counted.
      private var frame = 0..<0

      mutating func beginSync() { syncingEnd = writtenEnd }

      mutating func add(_ data: ArraySlice<UInt8>, at position: Int) {
        // The rest of one that was cut short.
        if frame.contains(position), position != frame.lowerBound { return }
        var at = data.startIndex
        func integer<Value: FixedWidthInteger>(_ offset: Int, as: Value.Type) -> Value {
          data.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at - data.startIndex + offset, as: Value.self) }
        }
        while position >= 4096, at + 48 <= data.endIndex {
          let byteCount = Int(integer(4, as: UInt32.self))
          guard byteCount >= 48, byteCount % 8 == 0 else { return }
          let start = position + at - data.startIndex
          frame = start..<start + byteCount
          writtenEnd = max(writtenEnd, integer(8, as: UInt64.self) + UInt64(integer(24, as: UInt32.self)))
          at += byteCount
        }
      }
    }
  }
}
