import Foundation
import Testing

@Suite("RegisPay's pages")
struct RegisPayPageTests {
  @Test(
    "a person at a browser follows a payment to its end, sees an outage, refunds, releases, and is told when the server is away; axe-core finds nothing"
  )
  func pages() async throws {
    try await withTemporaryFolder { folder in
      let environment = try await PythonEnvironment.make(in: folder, installing: "axe-playwright-python")
      let axe = try await script(of: environment, in: folder)
      let support = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
        "Support/page.py")
      let program = RegisPayProcess.buildFolder.appendingPathComponent("regispay").path
      let browser = try RegisPayProcess(
        program: "python3", [support.path, "--program", program, "--directory", folder + "/pages", "--axe", axe],
        folder: folder)
      let exit = try await browser.waitForExit(within: .seconds(300))
      #expect(exit == .init(code: 0, isSignal: false), "\(browser.errorText)")
    }
  }

  /// The script that the package ships.
  private func script(of environment: PythonEnvironment, in folder: String) async throws -> String {
    let python = try RegisPayProcess(
      program: environment.programs + "/python3",
      ["-c", "import axe_playwright_python, os; print(os.path.dirname(axe_playwright_python.__file__))"], folder: folder
    )
    let line = try #require(try await python.nextLine())
    return line + "/axe.min.js"
  }
}
