import Foundation
import GRDB
import Synchronization
import Testing

@testable import RegisPay

@Suite("A pool's connections for reading")
struct PoolReaderTests {
  @Test("are all open before reads need them: opening one on a disk that hangs would hold up the end of every read")
  func open() async throws {
    try await withTemporaryFolder { directory in
      let count = Counter()
      var configuration = Configuration()
      configuration.maximumReaderCount = 4
      configuration.prepareDatabase { _ in count.add() }
      let pool = try DatabasePool(path: directory + "/a.sqlite", configuration: configuration)
      try await pool.write { try $0.execute(sql: "CREATE TABLE t (a)") }
      try pool.openReaders()
      #expect(count.value == 5)
      try await withThrowingTaskGroup { group in
        for _ in 0..<20 {
          group.addTask { try await pool.read { try Int.fetchOne($0, sql: "SELECT count(*) FROM t") } }
        }
        for try await rows in group { #expect(rows == 0) }
      }
      #expect(count.value == 5)
    }
  }

  private final class Counter: Sendable {
    private let count = Atomic<Int>(0)
    var value: Int { count.load(ordering: .relaxed) }
    func add() { count.add(1, ordering: .relaxed) }
  }
}
