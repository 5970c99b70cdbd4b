import Foundation

/// A Python of its own with packages from PyPI, to let other people's programs judge ours.
struct PythonEnvironment: Sendable {
  /// Where its programs are.
  let programs: String

  /// Makes one in a folder.
  static func make(in folder: String, installing packages: String...) async throws -> PythonEnvironment {
    let environment = folder + "/python"
    try await run("python3", ["-m", "venv", environment], folder)
    try await run(
      environment + "/bin/python3", ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"] + packages,
      folder)
    return PythonEnvironment(programs: environment + "/bin")
  }

  private static func run(_ program: String, _ arguments: [String], _ folder: String) async throws {
    let process = try RegisPayProcess(program: program, arguments, folder: folder)
    let exit = try await process.waitForExit(within: .seconds(300))
    guard exit.code == 0 else { throw RegisPayProcess.Failure(description: "\(arguments): \(process.errorText)") }
  }
}
