import Foundation
import Synchronization
import Testing

extension LogStoreCommandTests {
  /// `kill -9` before every system call that touches the store or a backup. LOGSTORE_KILL_ROUNDS sets how often in all;
  /// from 2000 on it is before every single one.
  @Suite struct KillEverywhere {
    @Test("killed before any of its calls, everything acknowledged is there, nothing is half done, and the store works")
    func beforeEveryCall() async throws {
      var random = SeededGenerator("kill before every call")
      var places: [(operation: Operation, number: Int)] = []
      for operation in Operation.all {
        let run = try await OperationRun(operation)
        let log = run.store.scratch.newPath("log")
        let finished = try await run.run(under: try await Shim.words(root: run.store.scratch.path, log: log))
        try #require(finished.exitCode == 0, "\(operation.name): \(finished.errors)")
        let count = try ShimRecord.read(log).map(\.number).max() ?? 0
        // Threads are scheduled differently each time; the last calls of a run may come a little later.
        places += (1...(count + 3)).map { (operation, $0) }
        print("\(operation.name): \(count) calls")
      }
      let all = places.count
      if Kill.rounds < 2000 { places = Array(places.shuffled(using: &random).prefix(Kill.rounds)) }
      let killed = Atomic(0)
      try await inParallel(places) { place in
        let fault = Shim.Fault(call: "*", number: place.number, action: .kill)
        let comment: Comment = "\(place.operation.name), \(fault)"
        let run = try await OperationRun(place.operation)
        let finished = try await run.run(
          under: try await Shim.words(root: run.store.scratch.path, faults: [fault]))
        if finished.signal == SIGKILL { killed.add(1, ordering: .relaxed) }
        #expect(finished.signal == SIGKILL || finished.exitCode == 0, "\(comment): \(finished.errors)")
        try await run.expectWhole(finished, comment)
      }
      let count = killed.load(ordering: .relaxed)
      print("killed \(count) times, at \(places.count) of \(all) places")
      #expect(count > places.count * 3 / 4, "only \(count) of \(places.count) runs were killed")
    }

    /// The names of the system's calls, and what stands for them in Support/shim.c. opendir(3) opens and looks once.
    private static let systemCalls: [(names: [String], shim: [String])] = [
      (["open", "openat"], ["open", "opendir"]), (["close"], ["close", "closedir"]), (["pread64"], ["pread"]),
      (["pwrite64"], ["pwrite"]), (["read"], ["read"]), (["write"], ["write"]), (["fsync"], ["fsync"]),
      (["fdatasync"], ["fdatasync"]), (["rename", "renameat", "renameat2"], ["rename"]),
      (["unlink", "rmdir", "unlinkat"], ["unlink", "rmdir"]), (["mkdir", "mkdirat"], ["mkdir"]),
      (["ftruncate"], ["ftruncate"]), (["fallocate"], ["fallocate"]), (["sync_file_range"], ["sync_file_range"]),
      (["mmap"], ["mmap"]), (["flock"], ["flock"]), (["fcntl"], ["fcntl"]), (["access", "faccessat"], ["access"]),
      (["fstat", "stat", "newfstatat"], ["fstat", "stat", "lstat", "opendir"]),
      (["inotify_add_watch"], ["inotify_add_watch"]),
    ]

    /// Those that the C library makes in another number than it was called: many readdir(3) are one call, one realpath(3)
    /// is several; and those that only begin the process or wait for its input.
    private static let uncounted: Set = [
      "getdents64", "readlink", "readlinkat", "faccessat2", "execve", "poll", "lseek",
    ]

    @Test("no call that touches the store escapes these tests", arguments: Operation.all)
    func noneEscapes(operation: Operation) async throws {
      let run = try await OperationRun(operation)
      let root = run.store.scratch.path
      let log = run.store.scratch.newPath("log")
      let trace = run.store.scratch.newPath("strace")
      let words = try await Shim.words(root: root, log: log)
      // Only the command itself is to have the shim, strace is not.
      let environment = words.dropFirst().flatMap { ["-E", $0] }
      let finished = try await run.run(
        under: ["strace", "-f", "-y", "-qqq", "-s", "4096", "-e", "signal=none", "-o", trace] + environment)
      try #require(finished.exitCode == 0, "\(operation.name): \(finished.errors)")
      var seen: [String: [String]] = [:]
      // By thread. What ends in a question mark, or never, was not made: the process ended first, and for a thread that is
      // being ended strace may print another thread's call a second time.
      var begun: [Substring: String] = [:]
      for line in try String(contentsOfFile: trace, encoding: .isoLatin1).split(separator: "\n") {
        // The number of the thread, then the call.
        let words = line.split(separator: " ", maxSplits: 1)
        guard words.count == 2 else { continue }
        var call = String(words[1].drop { $0 == " " })
        if call.hasSuffix("<unfinished ...>") {
          begun[words[0]] = call
          continue
        }
        if call.hasPrefix("<...") {
          guard let first = begun.removeValue(forKey: words[0]) else { continue }
          call = first + call
        }
        guard let open = call.firstIndex(of: "("), !call.hasSuffix("= ?") else { continue }
        // Output and errors go to files in there too; and the log is not the store's.
        guard call.contains(root), !call.contains("\(root)/errors."), !call.contains(log) else { continue }
        if ["1<", "0<"].contains(where: { call[call.index(after: open)...].hasPrefix($0) }) { continue }
        seen[String(call[..<open]), default: []].append(call)
      }
      let (records, ends) = try ShimRecord.read(log).reduce(into: ([ShimRecord](), Set<Int>())) {
        if $1.phase == .begin { $0.0.append($1) } else { $0.1.insert($1.number) }
      }
      for (names, shim) in Self.systemCalls {
        let calls = names.flatMap { seen.removeValue(forKey: $0) ?? [] }
        let count = calls.count
        let recorded = records.filter { record in
          shim.contains(record.call) && (record.path.hasPrefix(root) || record.path == "<directory>")
        }
        let known = recorded.count
        // The process may end while another thread of it is about to make a call, or makes it.
        let unfinishedCount = recorded.count { !ends.contains($0.number) }
        #expect(
          (known - unfinishedCount...known).contains(count),
          """
          \(operation.name): \(count) times \(names), of which the tests know \(known)
          \(calls.joined(separator: "\n"))
          of which the tests know
          \(recorded.map { "\($0.call) \($0.path)" }.joined(separator: "\n"))
          """)
      }
      for name in Self.uncounted { seen[name] = nil }
      #expect(seen.isEmpty, "\(operation.name): calls that no test fails: \(seen)")
    }
  }
}
