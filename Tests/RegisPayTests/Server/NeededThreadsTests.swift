import Foundation
import NIOCore
import Testing

@testable import RegisPay

@Suite("The threads that a server needs")
struct NeededThreadsTests {
  @Test("are as many as OPERATIONS.md says")
  func documented() throws {
    let file = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../docs/OPERATIONS.md").standardized
    let number = Server.neededThreads - 4 * System.coreCount
    #expect(try String(contentsOf: file, encoding: .utf8).contains("fewer than \(number) and 4 for each processor"))
  }
}
