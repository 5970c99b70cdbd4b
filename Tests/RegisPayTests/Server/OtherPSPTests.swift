import Foundation
import LogStore
import Testing

@testable import RegisPay

@Suite("A start with another PSP than before")
struct OtherPSPTests {
  private static let urls = ["http://psp.example", "https://psp.example:8443/v2"]

  /// Why a start with this URL is refused in a directory whose payments were made with the other one; nil if it is not.
  private func refusal(_ folder: String, known: String?, url: String?, accepts: Bool = false) throws -> String? {
    try KnownLog(storeID: "a", events: 1, psp: known).write(in: folder)
    var options = ServerOptions(directory: folder)
    options.pspURL = url
    options.acceptsNewPSP = accepts
    let psp = try options.psp
    do throws(ServerError) {
      try OtherPSP.check(options, psp, isEmpty: false)
    } catch {
      return "\(error)"
    }
    return nil
  }

  @Test("it is refused with both PSPs and the ways out, unless it is asked for")
  func refused() async throws {
    try await withTemporaryFolder { folder in
      for known in ["simulator"] + Self.urls {
        for url in [nil] + Self.urls {
          let line = try refusal(folder, known: known, url: url)
          guard known != url ?? "simulator" else {
            #expect(line == nil)
            continue
          }
          #expect(
            line?.contains("made with \(known == "simulator" ? "the simulator" : known),") == true, "\(line ?? "")")
          #expect(line?.contains("would now be \(url ?? "the simulator"): ") == true, "\(line ?? "")")
          let option = known == "simulator" ? "without --psp-url" : "with --psp-url \(known)"
          #expect(line?.contains("Start \(option);") == true, "\(line ?? "")")
          #expect(line?.contains("start once with --new-psp") == true)
          #expect(try refusal(folder, known: known, url: url, accepts: true) == nil)
        }
      }
    }
  }

  @Test("the same PSP in another spelling, and a file that does not say it, are accepted")
  func accepted() async throws {
    try await withTemporaryFolder { folder in
      for url in ["http://PSP.example:80/", "http://psp.example", "http://psp.example:80"] {
        #expect(try refusal(folder, known: "http://psp.example", url: url) == nil)
        #expect(try refusal(folder, known: nil, url: url) == nil)
      }
      for url in ["https://psp.example", "http://psp.example/V2", "http://psp.example:8080"] {
        #expect(try refusal(folder, known: "http://psp.example", url: url) != nil, "\(url)")
      }
      var options = ServerOptions(directory: folder)
      try FileManager.default.removeItem(atPath: KnownLog.path(in: folder))
      options.pspURL = "http://other.example"
      try OtherPSP.check(options, "http://other.example", isEmpty: false)
      // Nothing was paid there.
      try KnownLog(storeID: "a", events: 0, psp: "simulator").write(in: folder)
      try OtherPSP.check(options, "http://other.example", isEmpty: true)
      #expect(throws: ServerError.self) { try OtherPSP.check(options, "http://other.example", isEmpty: false) }
      try KnownLog(storeID: "a", events: 1, psp: "simulator").write(in: folder)
      #expect(throws: ServerError.self) { try OtherPSP.check(options, "http://other.example", isEmpty: true) }
    }
  }
}
