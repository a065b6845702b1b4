// Package interop shows that the code of others reads what OARS writes: checkpoints with
// golang.org/x/mod/sumdb/note, proofs with github.com/transparency-dev/merkle.
package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

type envelope struct {
	PayloadType string `json:"payloadType"`
	Payload     []byte `json:"payload"`
}

type receipts struct {
	Receipts []struct {
		LeafIndex string   `json:"leafIndex"`
		Envelope  envelope `json:"envelope"`
	} `json:"receipts"`
}

type keys struct {
	Keys []struct {
		Vkey string `json:"vkey"`
	} `json:"keys"`
}

type checkpoint struct {
	Note string `json:"note"`
}

type consistency struct {
	From   checkpoint `json:"from"`
	To     checkpoint `json:"to"`
	Hashes [][]byte   `json:"hashes"`
}

// folder holds what a server has answered; OARS_GOLDEN names another.
func folder() string {
	if named := os.Getenv("OARS_GOLDEN"); named != "" {
		return named
	}
	return filepath.Join("..", "..", "golden", "log")
}

func golden(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder(), name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parse(t *testing.T, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(golden(t, name), into); err != nil {
		t.Fatal(err)
	}
}

func verifiers(t *testing.T) note.Verifiers {
	t.Helper()
	var listed keys
	parse(t, "keys.json", &listed)
	var found []note.Verifier
	for _, key := range listed.Keys {
		if key.Vkey == "" {
			continue
		}
		verifier, err := note.NewVerifier(key.Vkey)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, verifier)
	}
	if len(found) == 0 {
		t.Fatal("no key signs checkpoints")
	}
	return note.VerifierList(found...)
}

// open verifies a checkpoint and reads its size and root.
func open(t *testing.T, signed string) (uint64, []byte) {
	t.Helper()
	opened, err := note.Open([]byte(signed), verifiers(t))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		t.Fatal(err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil {
		t.Fatal(err)
	}
	return size, root
}

func leafHash(e envelope) []byte {
	pae := fmt.Sprintf("DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload)
	return rfc6962.DefaultHasher.HashLeaf([]byte(pae))
}

// readProof splits a C2SP tlog-proof into index, hashes and checkpoint.
func readProof(t *testing.T, text string) (uint64, [][]byte, string) {
	t.Helper()
	head, signed, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || lines[0] != "c2sp.org/tlog-proof@v1" {
		t.Fatal("not a tlog-proof")
	}
	index, err := strconv.ParseUint(strings.TrimPrefix(lines[1], "index "), 10, 63)
	if err != nil {
		t.Fatal(err)
	}
	var hashes [][]byte
	for _, line := range lines[2:] {
		hash, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, hash)
	}
	return index, hashes, signed
}

func TestInclusion(t *testing.T) {
	var stored receipts
	parse(t, "receipts.json", &stored)
	if len(stored.Receipts) == 0 {
		t.Fatal("no receipts")
	}
	for position, receipt := range stored.Receipts {
		text := string(golden(t, fmt.Sprintf("proofs/%d.tlog-proof", position)))
		index, hashes, signed := readProof(t, text)
		size, root := open(t, signed)
		leaf := leafHash(receipt.Envelope)
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf, hashes, root); err != nil {
			t.Errorf("receipt %d: %v", position, err)
		}
		if len(hashes) == 0 {
			continue
		}
		hashes[0] = bytes.Clone(hashes[0])
		hashes[0][0] ^= 1
		if proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf, hashes, root) == nil {
			t.Errorf("receipt %d: a changed proof verifies", position)
		}
	}
}

func TestConsistency(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(folder(), "consistency-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no consistency proofs", err)
	}
	for _, file := range files {
		var given consistency
		parse(t, filepath.Base(file), &given)
		oldSize, oldRoot := open(t, given.From.Note)
		newSize, newRoot := open(t, given.To.Note)
		hasher := rfc6962.DefaultHasher
		if err := proof.VerifyConsistency(hasher, oldSize, newSize, given.Hashes, oldRoot, newRoot); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		other := sha256.Sum256(oldRoot)
		if proof.VerifyConsistency(hasher, oldSize, newSize, given.Hashes, other[:], newRoot) == nil {
			t.Errorf("%s: another root is consistent too", file)
		}
	}
}

func TestForgedCheckpoint(t *testing.T) {
	var given consistency
	files, err := filepath.Glob(filepath.Join(folder(), "consistency-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no consistency proofs", err)
	}
	parse(t, filepath.Base(files[0]), &given)
	text, signatures, _ := strings.Cut(given.To.Note, "\n\n")
	lines := strings.Split(text, "\n")
	lines[1] += "0"
	forged := strings.Join(lines, "\n") + "\n\n" + signatures
	if _, err := note.Open([]byte(forged), verifiers(t)); err == nil {
		t.Error("a checkpoint of another size verifies")
	}
}
