import Foundation
import GRDB
import Testing

@testable import RegisPay

@Suite struct WholeFileTests {
  @Test(
    "pools that are read while they are closed, more of them than tasks have threads, are closed",
    .timeLimit(.minutes(5)))
  func readWhileClosing() async throws {
    try await withTemporaryFolder { folder in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<8 * ProcessInfo.processInfo.activeProcessorCount {
          let pool = try DatabasePool(path: "\(folder)/\(number).sqlite")
          try await pool.write { try $0.execute(sql: "CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1)") }
          group.addTask {
            let reads = (0..<4).map { _ in
              Task { try await pool.read { try Int.fetchOne($0, sql: "SELECT i FROM t") } }
            }
            await Task.yield()
            try await pool.closeWhole()
            // One that began too late finds the pool closed.
            for read in reads {
              if case .success(let value) = await read.result { #expect(value == 1) }
            }
          }
        }
        try await group.waitForAll()
      }
      let names = try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix("-wal") }
      let sizes = try names.map { try FileManager.default.attributesOfItem(atPath: "\(folder)/\($0)")[.size] as? Int }
      #expect(sizes.allSatisfy { $0 == 0 }, "the write-ahead logs are merged: \(sizes)")
    }
  }
}
