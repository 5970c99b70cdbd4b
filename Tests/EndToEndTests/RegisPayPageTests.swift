import Foundation
import Testing

@Suite("RegisPay's page")
struct RegisPayPageTests {
  @Test("a person at a browser creates a payment by keyboard and sees it completed within two seconds")
  func page() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Support/page.py")
      let browser = try RegisPayProcess(program: "python3", [script.path, server.url], folder: folder)
      let exit = try await browser.waitForExit(within: .seconds(90))
      #expect(exit == .init(code: 0, isSignal: false), "\(browser.errorText)")
    }
  }
}
