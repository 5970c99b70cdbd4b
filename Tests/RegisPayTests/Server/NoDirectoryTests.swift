import Foundation
import Testing

@testable import RegisPay

@Suite("Something else in the place of a directory of the server's")
struct NoDirectoryTests {
  @Test("a file or a pipe in the place of a directory is named", arguments: [false, true])
  func noDirectory(_ isPipe: Bool) async throws {
    try await withTemporaryFolder { folder in
      let path = folder + "/projection"
      if isPipe { #expect(mkfifo(path, 0o600) == 0) } else { try Data().write(to: URL(fileURLWithPath: path)) }
      try await withStore { store in
        let error = #expect(throws: ProjectionError.self) {
          try PaymentProjection.open(path, log: PaymentLog(store), health: Health(stores: []), logger: silent)
        }
        #expect(
          error?.description.hasPrefix("can't use \(path): it is no directory; ") == true, "\(error?.description ?? "")"
        )
        #expect(throws: WebhookStoreError.self) { try WebhookJournal.open(path, health: Health(stores: [])) }
      }
    }
  }
}
